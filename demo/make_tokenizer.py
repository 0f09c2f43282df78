#!/usr/bin/env python3
"""Trains the demo model's tokenizer (byte-level BPE) on sft.jsonl and writes tokenizer.json, tokenizer_config.json and
config.json into one directory. Needs tokenizers (made with 0.23.3); run make_corpus.py first.

Pre-tokenizer: GPT-2's ByteLevel split, as Llama 3 and Qwen2 do with other patterns. No BOS: a row starts with its text.
"""
import argparse
import json
import os

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

VOCAB_SIZE = 1792
EOS, PAD = "<|endoftext|>", "<|pad|>"


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", default=os.path.join(here, "sft.jsonl"))
    parser.add_argument("--out", default=os.path.join(here, "init"))
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)

    with open(args.data, encoding="utf-8") as f:
        rows = [json.loads(line) for line in f]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(vocab_size=VOCAB_SIZE, special_tokens=[EOS, PAD], min_frequency=2,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False)
    tokenizer.train_from_iterator((r["prompt"] + r["completion"] for r in rows), trainer)
    tokenizer.save(os.path.join(args.out, "tokenizer.json"))

    files = {
        "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": False,
                                  "add_eos_token": False, "bos_token": None, "eos_token": EOS, "pad_token": PAD,
                                  "clean_up_tokenization_spaces": False, "model_max_length": 512},
        "config.json": {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 192,
                        "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 6,
                        "num_key_value_heads": 2, "head_dim": 32, "vocab_size": tokenizer.get_vocab_size(),
                        "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
                        "hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "attention_dropout": 0.0,
                        "initializer_range": 0.06, "tie_word_embeddings": True, "bos_token_id": None,
                        "eos_token_id": tokenizer.token_to_id(EOS), "pad_token_id": tokenizer.token_to_id(PAD),
                        "torch_dtype": "bfloat16", "use_cache": True},
        "generation_config.json": {"eos_token_id": tokenizer.token_to_id(EOS),
                                   "pad_token_id": tokenizer.token_to_id(PAD), "max_new_tokens": 64},
    }
    for name, content in files.items():
        with open(os.path.join(args.out, name), "w", encoding="utf-8", newline="\n") as f:
            json.dump(content, f, indent=2)
            f.write("\n")
    print(f"{args.out}: {tokenizer.get_vocab_size()} tokens")


if __name__ == "__main__":
    main()
