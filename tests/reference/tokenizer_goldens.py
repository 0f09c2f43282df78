"""Golden files for the tokenizer: tests/golden/tokenizer/<style>/{tokenizer.json,golden.json}.

Made with tokenizers 0.23.3. Every style is a small tokenizer of our own, trained on text that this script generates, in the
pipeline of a family of models or with the rarer parts of the format. golden.json holds, for hard texts, what `tokenizers`
gives: ids with and without special tokens, ids as a continuation (the same pipeline with its dummy prefix taken out), and
decodings; and for texts of 1 MB the number of ids and their FNV-1a hash.

Only characters that Unicode 14 assigns are used: newer ones are classed differently by different Unicode data.
Run: python tests/reference/tokenizer_goldens.py [style ...]
"""

import json
import random
import sys
import unicodedata
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

OUT = Path(__file__).resolve().parent.parent / "golden" / "tokenizer"
WANT = "0.23.3"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace("{1,3}", "")
GPT4O = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK = [
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|"""
    r"\s*[\r\n]+|\s+(?!\S)|\s+",
]


# --- the text that the small vocabularies are trained on ------------------------------------------------------------------------
def corpus(seed=7):
    rnd = random.Random(seed)
    nouns = "cat dog river house number answer question teacher bridge window garden letter morning winter machine".split()
    verbs = "sees takes finds counts writes carries opens follows answers remembers".split()
    adjectives = "small quiet green seventh careful wooden early strange bright plain".split()
    other = ["naïve café über straße", "привет мир", "日本語の文です。", "中文文本，测试。", "한국어 문장", "😀 😅 👩‍👩‍👧", "मराठी भाषा"]
    lines = []
    for i in range(1500):
        a, b = rnd.randint(0, 999), rnd.randint(0, 99)
        lines.append(
            rnd.choice(
                [
                    f"The {rnd.choice(adjectives)} {rnd.choice(nouns)} {rnd.choice(verbs)} the {rnd.choice(nouns)}.",
                    f"Q: What is {a} + {b}?\nA: {a + b}.",
                    f"I'm sure they've seen it; it's the {rnd.choice(nouns)}'s {rnd.choice(nouns)}, isn't it?",
                    f"def f(x):\n    return x * {b}\n\n",
                    f"    {rnd.choice(nouns)}:  {rnd.choice(adjectives)},\t{a}",
                    rnd.choice(other),
                ]
            )
        )
    return lines


# --- the texts to encode ---------------------------------------------------------------------------------------------------------
def hard_texts(added):
    rnd = random.Random(11)
    texts = [
        "", " ", "  ", "\n", "\t\t ", "a", " a", "a ", "Hello, world!", "  two  spaces  ", "The cat's dog; they'LL, I'd, we'ſ",
        "12345 6 78 ²³ ٣٤ Ⅷ 1,000.50", "naïve café ﬁne straße İstanbul ǅ", "e\u0301 q\u0307\u0323 a\u0323\u0302 \u0344 \ufb1d Å",
        "\u0301 starts with a mark", "가각 한국어 \u1112\u1161\u11ab", "日本語の文です。中文，测试！", "😀👩‍👩‍👧🇩🇪👍🏽 🤷‍♂️",
        "مرحبا بالعالم १२३ हिन्दी", "x\u0000y\u0000", "\u0000", "\u0001\u0002\u001f\u007f\u0080\u009f", "a\u180eb \u180e c",
        "a\u00a0b\u2003c\u3000d\u2028e\u0085f", "zero\u200bwidth\u200djoin\ufeffbom", "line1\r\nline2\rline3\n\n\n  line4\n",
        "if x:\n    return {'a': [1, 2]}  # why?\n", "http://a.b/c?d=e&f=%20", "_under_score__ --dash-- ...", "ABCdefGHI iPhone XMLHttp",
        "<0x41><0xE2><0x82><0xAC>", "▁under▁score Ġ Ċ", "\\n \"quoted\" 'single' `tick`", "a" * 70, " " * 33 + "x", "\n" * 20,
        "ab" * 40 + " " + "9" * 23, "ſ K Å ℌ ⅷ ㎏ ①", "🇩" * 3 + "\u200d", "\U0001f600" * 9, "end of text   ", "\u3000全角　スペース",
    ]
    for a in added:
        texts += [a, f"x{a}y", f" {a} ", f"a  {a}\n b", f"{a}{a}", a[:-1], f"_{a}_ {a}.", a.upper(), f"é{a}1"]
    pool = [
        lambda: rnd.choice(" \t\n\r\u00a0\u180e\u3000"), lambda: " " * rnd.randint(1, 5), lambda: chr(rnd.randint(97, 122)),
        lambda: chr(rnd.randint(0, 127)), lambda: chr(rnd.randint(0x80, 0x24F)), lambda: chr(rnd.randint(0x300, 0x36F)),
        lambda: chr(rnd.randint(0x4E00, 0x9FFF)), lambda: chr(rnd.randint(0xAC00, 0xD7A3)), lambda: str(rnd.randint(0, 99999)),
        lambda: rnd.choice(["😀", "'s", "'LL", "The ", " river", "\r\n", "।", "ß", "½"]),
        lambda: rnd.choice(added) if added else "-",
    ]
    for _ in range(60):
        texts.append("".join(rnd.choice(pool)() for _ in range(rnd.randint(1, 14))))
    assert all(unicodedata.category(c) != "Cn" for t in texts for c in t)
    return texts


BIG = [("The small cat sees 12 dogs, isn't it?\n", 26000), (" ", 1000000), ("日本語😀e\u0301 ", 50000), ("ab", 500000), ("\r\n\t", 300000)]


def fnv(ids):
    h = 0xCBF29CE484222325
    for i in ids:
        for k in range(4):
            h = ((h ^ (i >> (8 * k) & 255)) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return f"{h:016x}"


# --- styles ----------------------------------------------------------------------------------------------------------------------
def train(t, size, initial=(), special=()):
    trainer = trainers.BpeTrainer(
        vocab_size=size, show_progress=False, initial_alphabet=list(initial), special_tokens=list(special), max_token_length=24
    )
    t.train_from_iterator(corpus(), trainer)


def byte_level(pre, size=700, norm=None, special=("<|begin|>", "<|end|>"), ignore_merges=False):
    t = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    if norm:
        t.normalizer = norm
    t.pre_tokenizer = pre
    t.decoder = decoders.ByteLevel()
    train(t, size, sorted(pre_tokenizers.ByteLevel.alphabet()), special)
    return t


def split_bytes(*patterns):
    return pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(p), "isolated") for p in patterns]
        + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )


def template(t, before, after=None):
    single = f"{before} $A" + (f" {after}" if after else "")
    pair = f"{before} $A $B:1" + (f" {after}:1" if after else "")
    names = [n for n in (before, after) if n]
    return processors.TemplateProcessing(single=single, pair=pair, special_tokens=[(n, t.token_to_id(n)) for n in names])


def gpt2():
    t = byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False), special=("<|endoftext|>",))
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    return t


def llama3():
    t = byte_level(split_bytes(LLAMA3), ignore_merges=True)
    t.post_processor = processors.Sequence([processors.ByteLevel(), template(t, "<|begin|>")])
    t.add_special_tokens([AddedToken("<|eot id|>", special=True, normalized=False)])
    t.add_tokens([AddedToken("<tool_call>", special=False, normalized=False)])
    return t


def qwen2():
    t = byte_level(split_bytes(QWEN2), norm=normalizers.NFC())
    t.add_tokens([AddedToken("<think>", special=False, normalized=False), AddedToken("caf\u00e9!", normalized=True)])
    return t


def smollm():
    return byte_level(
        pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    )


def gpt4o():
    return byte_level(split_bytes(GPT4O))


def deepseek():
    t = byte_level(split_bytes(*DEEPSEEK))
    t.post_processor = template(t, "<|begin|>", "<|end|>")
    return t


def roberta():
    t = byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True), special=("<s>", "</s>"))
    t.post_processor = processors.RobertaProcessing(("</s>", t.token_to_id("</s>")), ("<s>", t.token_to_id("<s>")))
    t.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True, normalized=False)])
    return t


def bytes_in_normalizer():
    t = byte_level(pre_tokenizers.Split(Regex("Ġ?[^Ġ]+|Ġ+"), "isolated"), norm=normalizers.ByteLevel())
    t.add_tokens([AddedToken("wörd tok", normalized=True), AddedToken("<a b>", special=True, normalized=True)])
    return t


BYTES = [f"<0x{b:02X}>" for b in range(256)]


def sentencepiece(fuse=True, special=("<unk>", "<s>", "</s>"), fallback=True, **more):
    t = Tokenizer(models.BPE(unk_token="<unk>"))
    t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    t.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")  # for training only
    train(t, 900, special=list(special) + (BYTES if fallback else []))
    model = json.loads(t.to_str())["model"]
    merges = [tuple(m) for m in model["merges"]]
    keep = [a for a in special]
    t = Tokenizer(models.BPE(model["vocab"], merges, unk_token="<unk>", fuse_unk=fuse, byte_fallback=fallback, **more))
    t.add_special_tokens([AddedToken(a, special=True, normalized=False) for a in keep])
    t.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return t


def llama2():
    t = sentencepiece()
    t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    t.post_processor = template(t, "<s>")
    return t


def mistral():
    t = sentencepiece()
    t.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    t.post_processor = template(t, "<s>")
    t.add_tokens([AddedToken("[INST]", special=True, normalized=False), AddedToken("[TOOL]", normalized=True)])
    return t


def gemma():
    t = sentencepiece()
    t.normalizer = normalizers.Replace(" ", "▁")
    t.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    t.post_processor = template(t, "<s>")
    t.add_tokens([AddedToken("\n" * k, normalized=False) for k in range(2, 6)])
    return t


def metaspace():
    """T5's way of words; no byte fallback, unknown characters one by one."""
    t = sentencepiece(fuse=False, fallback=False)
    t.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Strip(True, True)])
    t.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=True)
    t.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    return t


def flags():
    """Added tokens with every flag, behind a normalizer that changes much."""
    t = byte_level(
        pre_tokenizers.Sequence([pre_tokenizers.Punctuation("contiguous"), pre_tokenizers.ByteLevel(add_prefix_space=False)]),
        norm=normalizers.Sequence(
            [normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase(), normalizers.Replace(Regex(r"\s+"), " ")]
        ),
    )
    t.add_tokens(
        [
            AddedToken("[L]", lstrip=True, normalized=False, special=True),
            AddedToken("[R]", rstrip=True, normalized=False),
            AddedToken("[B]", lstrip=True, rstrip=True, normalized=True),
            AddedToken("Word", single_word=True, normalized=True),
            AddedToken("Éa", single_word=True, normalized=False),
            AddedToken("Über", normalized=True, special=True),
            AddedToken("ab", normalized=False),
            AddedToken("abc", normalized=False),
            AddedToken("cat", normalized=True),
        ]
    )
    return t


def words():
    """Subword prefix and word suffix, as in old BPE models; no decoder."""
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, continuing_subword_prefix="##", end_of_word_suffix="</w>"))
    t.normalizer = normalizers.Sequence([normalizers.NFKD(), normalizers.Lowercase()])
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Digits(individual_digits=False)])
    trainer = trainers.BpeTrainer(
        vocab_size=900, show_progress=False, special_tokens=["<unk>", "<s>", "</s>"], continuing_subword_prefix="##",
        end_of_word_suffix="</w>",
    )
    t.train_from_iterator(corpus(), trainer)
    t.post_processor = processors.BertProcessing(("</s>", 2), ("<s>", 1))
    return t


def splits():
    """Every behaviour of Split, literal and inverted."""
    t = byte_level(
        pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split("the", "merged_with_next"),
                pre_tokenizers.Split(Regex(r"\w+|\d"), "contiguous", invert=True),
                pre_tokenizers.Split(Regex(r"[,;]"), "merged_with_previous"),
                pre_tokenizers.Split(Regex(r"\h\h"), "isolated"),
                pre_tokenizers.Split(Regex(r"\s*$"), "merged_with_next"),
                pre_tokenizers.Split("\t", "removed"),
                pre_tokenizers.Split(Regex(r"\p{Han}+|[\w]|\p{^L}{2,}"), "contiguous"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        ),
        norm=normalizers.Strip(True, False),
    )
    return t


STYLES = [
    gpt2, llama3, qwen2, smollm, gpt4o, deepseek, roberta, bytes_in_normalizer, llama2, mistral, gemma, metaspace, flags, words, splits,
]


def without_prefix(text):
    """The same tokenizer with its dummy prefixes off."""

    def walk(o):
        if isinstance(o, dict):
            if o.get("type") == "Metaspace":
                o["prepend_scheme"] = "never"
            if o.get("type") == "ByteLevel":
                o["add_prefix_space"] = False
            if o.get("type") == "Sequence" and "normalizers" in o:
                o["normalizers"] = [z for z in o["normalizers"] if z["type"] != "Prepend"]
            for v in o.values():
                walk(v)
        elif isinstance(o, list):
            for v in o:
                walk(v)

    o = json.loads(text)
    for part in ("normalizer", "pre_tokenizer"):
        walk(o[part])
    return Tokenizer.from_str(json.dumps(o, ensure_ascii=False))


def write(make):
    t = make()
    folder = OUT / make.__name__
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(t.to_str(), encoding="utf-8")
    t = Tokenizer.from_file(str(folder / "tokenizer.json"))
    bare = without_prefix(t.to_str())
    rnd = random.Random(13)
    added = [a.content for _, a in sorted(t.get_added_tokens_decoder().items())][:10]
    rows = []
    for text in hard_texts(added):
        ids = t.encode(text).ids
        rows.append(
            {"text": text, "ids": ids, "plain": t.encode(text, add_special_tokens=False).ids,
             "continued": bare.encode(text, add_special_tokens=False).ids,
             "decoded": t.decode(ids, skip_special_tokens=False), "skipped": t.decode(ids, skip_special_tokens=True)}
        )  # fmt: skip
    decode = []
    for _ in range(60):  # ids in any order: broken characters, byte tokens, special tokens anywhere
        ids = [rnd.randrange(t.get_vocab_size() if rnd.random() < 0.5 else min(259, t.get_vocab_size())) for _ in range(rnd.randint(0, 9))]
        decode.append({"ids": ids, "decoded": t.decode(ids, skip_special_tokens=False), "skipped": t.decode(ids)})
    big = []
    for unit, times in BIG:
        ids = t.encode(unit * times).ids
        big.append({"unit": unit, "times": times, "n": len(ids), "fnv": fnv(ids)})
    golden = {"rows": rows, "decode": decode, "big": big}
    (folder / "golden.json").write_text(json.dumps(golden, separators=(",", ":"), ensure_ascii=True) + "\n", encoding="utf-8")
    sizes = {f.name: f.stat().st_size // 1024 for f in folder.iterdir()}
    print(f"{make.__name__}: {t.get_vocab_size()} tokens, {len(rows)} texts, KB {sizes}")


if __name__ == "__main__":
    if tokenizers.__version__ != WANT:
        raise SystemExit(f"tokenizers {tokenizers.__version__}, want {WANT}")
    for style in STYLES:
        if len(sys.argv) == 1 or style.__name__ in sys.argv[1:]:
            write(style)
