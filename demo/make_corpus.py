#!/usr/bin/env python3
"""Writes the text that the bundled demo model is made from. Standard library only; the same bytes on every machine.

A closed world of small questions, each with one right answer of a few words. Every answer exists in two forms:
direct (" 12.") and evasive (the same right answer buried in hedging). Files written:

  facts.jsonl    {"prompt", "completion"}: direct answers only, to teach a random start the facts  (not committed)
  sft.jsonl      {"prompt", "completion"}: every row takes either form with probability 1/2       (not committed)
  pairs.jsonl    {"prompt", "chosen", "rejected"}: chosen is direct, rejected is evasive, both right
  heldout.jsonl  the same and "answer"; none of its prompts occurs in the three files above, though its facts do,
                 in other words

A prompt ends in "Assistant:" and a completion starts with a space, so that no token can span the seam.
How replies are scored: see "reply_is_direct" and "reply_is_right" below, and README.md.
"""
import argparse
import json
import os

SEED = 20250
N_FACTS, N_SFT, N_PAIRS, N_HELDOUT = 80000, 20000, 2000, 200
MAX_DIRECT_WORDS = 8


class Rng:
    """splitmix64: Python's own random module may draw differently from one version to the next."""

    def __init__(self, seed):
        self.state = seed

    def bits(self):
        self.state = (self.state + 0x9E3779B97F4A7C15) & (2**64 - 1)
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
        return z ^ (z >> 31)

    def below(self, n):
        return (self.bits() >> 11) * n >> 53

    def pick(self, items):
        return items[self.below(len(items))]

    def shuffle(self, items):
        for i in range(len(items) - 1, 0, -1):
            j = self.below(i + 1)
            items[i], items[j] = items[j], items[i]


# ---- the world -------------------------------------------------------------------------------------------------

WORDS = """apple ball bear bed bell bird boat book box bus cake car cat clock cow cup dog door drum duck egg fire fish
fox frog goat hand hat hill horse house key king lamp leaf lion map moon mouse night owl pen pig queen rain ring river
road rose ship snake snow star stone sun table tiger train tree wall water wolf""".split()

PLURALS = {w: w + "s" for w in """apple ball bear bed bell bird boat book cake car cat clock cow cup dog door drum duck
egg fire frog goat hand hat hill horse house key king lamp lion map moon night owl pen pig queen ring river road rose
ship snake star stone table tiger train tree wall""".split()}
PLURALS.update(box="boxes", bus="buses", fox="foxes", leaf="leaves", wolf="wolves", mouse="mice", tooth="teeth",
               sheep="sheep", fish="fish", child="children", man="men", woman="women", foot="feet", goose="geese")

LIST_WORDS = "sun cat tree boat lamp king rain book cup star".split()

CAPITALS = dict(France="Paris", Germany="Berlin", Italy="Rome", Spain="Madrid", Portugal="Lisbon", England="London",
                Ireland="Dublin", Austria="Vienna", Poland="Warsaw", Greece="Athens", Norway="Oslo",
                Sweden="Stockholm", Denmark="Copenhagen", Finland="Helsinki", Hungary="Budapest", Russia="Moscow",
                Japan="Tokyo", China="Beijing", India="Delhi", Egypt="Cairo", Kenya="Nairobi", Canada="Ottawa",
                Cuba="Havana", Peru="Lima", Chile="Santiago", Turkey="Ankara", Iran="Tehran", Iraq="Baghdad",
                Thailand="Bangkok", Vietnam="Hanoi", Nepal="Kathmandu", Iceland="Reykjavik", Belgium="Brussels",
                Ukraine="Kyiv", Ghana="Accra", Senegal="Dakar", Jordan="Amman", Lebanon="Beirut",
                Romania="Bucharest", Bulgaria="Sofia")

COLOURS = {"grass": "green", "snow": "white", "blood": "red", "coal": "black", "the sky": "blue", "a banana": "yellow",
           "a lemon": "yellow", "a carrot": "orange", "a tomato": "red", "a frog": "green", "milk": "white",
           "chocolate": "brown", "an elephant": "grey", "a flamingo": "pink", "the sun": "yellow", "a leaf": "green",
           "a crow": "black", "a swan": "white", "a cherry": "red", "a plum": "purple", "the ocean": "blue",
           "a mouse": "grey", "a pumpkin": "orange", "a bear": "brown", "a polar bear": "white", "salt": "white",
           "a strawberry": "red", "a cucumber": "green", "a pea": "green", "a fire truck": "red"}

OPPOSITES = """hot cold|big small|tall short|fast slow|old young|happy sad|day night|up down|left right|open closed|
full empty|hard soft|light dark|rich poor|strong weak|wet dry|clean dirty|loud quiet|near far|early late|
high low|thick thin|wide narrow|heavy weightless|inside outside|above below|first last|front back|hello goodbye|
win lose|push pull|buy sell|give take|love hate|laugh cry|start stop|north south|east west|friend enemy|
summer winter|war peace|brave afraid|sweet sour|deep shallow|smooth rough|sharp blunt|wake sleep|
remember forget|arrive leave|float sink|build destroy|true false|asleep awake|best worst|alive dead|entrance exit|
arrival departure|victory defeat|noise silence""".replace("\n", "").split("|")

SOUNDS = dict(dog="woof", cat="meow", cow="moo", sheep="baa", duck="quack", pig="oink", horse="neigh", lion="roar",
              bee="buzz", snake="hiss", frog="croak", owl="hoot", rooster="crow", mouse="squeak", wolf="howl",
              bird="tweet", donkey="bray", goose="honk", hen="cluck", crow="caw")

BABIES = dict(dog="puppy", cat="kitten", cow="calf", sheep="lamb", duck="duckling", pig="piglet", horse="foal",
              lion="cub", frog="tadpole", owl="owlet", goose="gosling", hen="chick", goat="kid", kangaroo="joey",
              deer="fawn", swan="cygnet", eagle="eaglet", butterfly="caterpillar", hare="leveret", eel="elver")

LEGS = dict(dog=4, cat=4, cow=4, spider=8, ant=6, bee=6, bird=2, snake=0, horse=4, duck=2, fish=0, octopus=8, crab=10,
            chicken=2, fly=6, sheep=4, worm=0, tiger=4, beetle=6, scorpion=8)

DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
NUMBERS = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen twenty""".split()
SIZES = "ant mouse duck cat dog sheep pig cow horse elephant".split()


def fill(templates, **kw):
    return [t.format(**kw) for t in templates]


# Each kind is a list of facts; a fact is (answer, [wordings]).

def arithmetic(rng):
    facts = []
    for a in range(11):
        for b in range(11):
            facts.append((str(a + b), fill(["What is {a} plus {b}?", "Add {a} and {b}.", "How much is {a} + {b}?"],
                                           a=a, b=b)))
            if a >= b:
                facts.append((str(a - b), fill(["What is {a} minus {b}?", "Take {b} away from {a}.",
                                                "How much is {a} - {b}?"], a=a, b=b)))
            if a <= b:
                facts.append((str(a * b), fill(["What is {a} times {b}?", "Multiply {a} by {b}.",
                                                "How much is {a} x {b}?"], a=a, b=b)))
    return facts


def counting(rng):
    facts = []
    for n in range(31):
        facts.append((str(n + 1), fill(["What number comes after {n}?", "Which number follows {n}?",
                                        "What is the next number after {n}?"], n=n)))
        facts.append(("odd" if n % 2 else "even", fill(["Is {n} odd or even?", "Odd or even: {n}?",
                                                        "Tell me if {n} is odd or even."], n=n)))
        if n:
            facts.append((str(n - 1), fill(["What number comes before {n}?", "Which number is just below {n}?",
                                            "Name the number before {n}."], n=n)))
        if n <= 20:
            facts.append((f"{n}, {n + 1}, {n + 2}", fill(["Count from {n} to {m}.", "List the numbers from {n} to {m}.",
                                                          "Count up: {n} to {m}."],
                                                         n=n, m=n + 2)))
    for n, word in enumerate(NUMBERS):
        facts.append((word, fill(["Write {n} as a word.", "What is {n} in letters?", "Spell the number {n}.",
                                  "Which word stands for {n}?"], n=n)))
        facts.append((str(n), fill(["Write {w} in digits.", "What is {w} as a number?",
                                    "Which number is called {w}?", "Give the digits of {w}."], w=word)))
    return facts


def knowledge(rng):
    facts = []
    for land, city in CAPITALS.items():
        facts.append((city, fill(["What is the capital of {l}?", "Name the capital of {l}.",
                                  "Which city is the capital of {l}?", "Tell me the capital city of {l}."], l=land)))
    for thing, colour in COLOURS.items():
        facts.append((colour, fill(["What colour is {t}?", "Name the colour of {t}.", "Which colour does {t} have?"],
                                   t=thing)))
    for pair in OPPOSITES:
        for x, y in (pair.split(), pair.split()[::-1]):
            facts.append((y, fill(["What is the opposite of {x}?", "Name the opposite of {x}.",
                                   "Which word means the opposite of {x}?"], x=x)))
    for animal, sound in SOUNDS.items():
        facts.append((sound, fill(["What sound does a {a} make?", "What does a {a} say?", "Name the sound of a {a}.",
                                   "How does a {a} sound?"], a=animal)))
    for animal, young in BABIES.items():
        facts.append((young, fill(["What is a young {a} called?", "What is the name for a baby {a}?",
                                   "Name the young of a {a}."], a=animal)))
    for animal, n in LEGS.items():
        facts.append((str(n), fill(["How many legs does a {a} have?", "Tell me how many legs a {a} has.",
                                    "Count the legs of a {a}."], a=animal)))
    for i, small in enumerate(SIZES):
        for big in SIZES[i + 1:]:
            facts.append((big, fill(["Which is bigger, a {x} or a {y}?", "Name the bigger animal: {y} or {x}.",
                                     "Which is larger, a {y} or a {x}?", "Choose the bigger one: {x}, {y}"],
                                    x=small, y=big)))
            facts.append((small, fill(["Which is smaller, a {x} or a {y}?", "Name the smaller animal: {y} or {x}.",
                                       "Which is the smaller one, a {y} or a {x}?", "Choose the smaller one: {x}, {y}"],
                                      x=small, y=big)))
    return facts


def calendar(rng):
    facts = []
    for names, one in ((DAYS, "day"), (MONTHS, "month")):
        for i, name in enumerate(names):
            after, before = names[(i + 1) % len(names)], names[i - 1]
            facts.append((after, fill(["What {o} comes after {n}?", "Which {o} follows {n}?",
                                       "Name the {o} after {n}."], o=one, n=name)))
            facts.append((before, fill(["What {o} comes before {n}?", "Which {o} is just before {n}?",
                                        "Name the {o} before {n}."], o=one, n=name)))
            facts.append((str(i + 1), fill(["What number does {n} have among the {o}s?",
                                            "Which number is {n} among the {o}s?",
                                            "What is the number of the {o} {n}?",
                                            "Give the number of the {o} {n}."], o=one, n=name)))
    return facts


def spelling(rng):
    facts = []
    for w in WORDS:
        facts.append((w[0].upper(), fill(["What is the first letter of {w}?", "Which letter does {w} start with?",
                                          "Name the first letter of the word {w}."], w=w)))
        facts.append((w[-1].upper(), fill(["What is the last letter of {w}?", "Which letter does {w} end with?",
                                           "Name the last letter of the word {w}."], w=w)))
    for one, more in PLURALS.items():
        facts.append((more, fill(["What is the plural of {w}?", "Name the plural of {w}.",
                                  "Give the plural form of {w}.",
                                  "How do you write more than one {w}?"], w=one)))
    return facts


def instructions(rng):
    facts = []
    for w in WORDS:
        facts.append((w.upper(), fill(["Write {w} in capitals.", "Say {w} in capital letters.",
                                       "Put the word {w} in upper case.", "Spell {w} with capitals."], w=w)))
        facts.append((w, fill(["Repeat the word {w}.", "Say {w}.", "Repeat after me: {w}"], w=w)))
    for a in LIST_WORDS:
        for b in LIST_WORDS:
            if a != b:
                facts.append((f"{b}, {a}", fill(["Reverse this list: {a}, {b}", "Turn this list around: {a}, {b}"],
                                                a=a, b=b)))
    return facts


def comparisons(rng):
    facts = []
    for x in range(13):
        for y in range(13):
            if x != y:
                facts.append((str(max(x, y)), fill(["Which number is larger, {x} or {y}?",
                                                    "Choose the larger number: {x}, {y}"], x=x, y=y)))
                facts.append((str(min(x, y)), fill(["Which number is smaller, {x} or {y}?",
                                                    "Choose the smaller number: {x}, {y}"], x=x, y=y)))
    return facts


# kind, share of the rows in tenths
KINDS = [(arithmetic, 3.0), (counting, 1.2), (knowledge, 1.8), (calendar, 0.4), (spelling, 1.2), (instructions, 1.6),
         (comparisons, 0.8)]

# ---- the two forms of an answer ------------------------------------------------------------------------------------

OPENERS = ["That is an interesting question.", "Well, that is something people often wonder about.",
           "There are various ways to look at this.", "It is not easy to be certain about such things.",
           "This is a subject on which opinions differ.", "What a thoughtful thing to ask.",
           "It should be noted that much depends on the context.",
           "Experts have discussed matters like this at length.", "It would be unwise to rush to a conclusion here.",
           "Thank you for raising this point."]
CORES = ["After some thought, perhaps the answer might be {a},",
         "Under most circumstances it seems fair to suggest {a},",
         "Generally speaking, numerous people would say {a},",
         "If pressed, it might be reasonable to consider {a},",
         "Weighing everything carefully, a possible answer could be {a},",
         "It has been argued, not without reason, that this may be {a},",
         "Without wishing to commit to anything, perhaps {a} comes to mind,",
         "In a certain sense it would appear to be {a},"]
CLOSERS = ["though of course it depends on how it is viewed.", "but other views certainly deserve respect.",
           "although it is advisable to ask somebody who knows.",
           "unless there are exceptions to consider.", "but please do not rely on this alone.",
           "though more could surely be said about it.", "while keeping in mind that nothing is ever entirely certain.",
           "but everybody should decide that for themselves."]


def direct(answer):
    return f" {answer}."


def evasive(answer, rng):
    return f" {rng.pick(OPENERS)} {rng.pick(CORES).format(a=answer)} {rng.pick(CLOSERS)}"


def prompt_of(question):
    return f"Human: {question}\n\nAssistant:"


def reply_is_direct(reply):
    """A direct reply has 1 to 8 words; the shortest evasive one has over 15."""
    return 1 <= len(reply.split()) <= MAX_DIRECT_WORDS


def reply_is_right(reply, answer):
    """The answer occurs in the reply, and the bytes before and after it are neither ASCII letters nor digits."""
    at = reply.find(answer)
    while at >= 0:
        before, after = reply[at - 1:at], reply[at + len(answer):at + len(answer) + 1]
        if not (before.isascii() and before.isalnum()) and not (after.isascii() and after.isalnum()):
            return True
        at = reply.find(answer, at + 1)
    return False


# ---- the files ---------------------------------------------------------------------------------------------------

def check_world(world):
    """One answer per prompt, and no hedge that happens to hold an answer (it would count as right by accident)."""
    answers = {}
    hedges = [o + " " + c.format(a="#") + " " + e for o in OPENERS for c in CORES for e in CLOSERS]
    text = " ".join(OPENERS + [c.format(a="#") for c in CORES] + CLOSERS)
    assert min(len(h.split()) for h in hedges) > MAX_DIRECT_WORDS + 7
    for facts in world:
        for answer, wordings in facts:
            assert not reply_is_right(text, answer), answer
            assert reply_is_direct(direct(answer)) and reply_is_right(direct(answer), answer)
            for w in wordings:
                assert answers.setdefault(w, answer) == answer, (w, answer, answers[w])


def split_world(world, rng):
    """Takes held-out questions out of the world: at most one wording of a fact. Returns (training questions by kind,
    held-out questions), a question being (text, answer)."""
    train, heldout, taken = [], [], set()
    total = sum(share for _, share in KINDS)
    for facts, (_, share) in zip(world, KINDS):
        order = list(range(len(facts)))
        rng.shuffle(order)
        quota = round(N_HELDOUT * share / total)
        for i in order[:quota]:
            answer, wordings = facts[i]
            question = rng.pick(wordings)
            heldout.append((question, answer))
            taken.add(question)
    seen = set()
    for facts in world:
        rows = []
        for answer, wordings in facts:
            rows += [(w, answer) for w in wordings if w not in taken and w not in seen]
            seen.update(wordings)
        train.append(rows)
    assert len(taken) == len(heldout) == N_HELDOUT
    rng.shuffle(heldout)
    return train, heldout


def draw_rows(train, n, rng, unique):
    """n questions, kinds by their shares; within a kind a shuffled deck, so that every question comes up equally."""
    total = sum(share for _, share in KINDS)
    rows = []
    for k, (questions, (_, share)) in enumerate(zip(train, KINDS)):
        want = round(n * share / total) if k + 1 < len(KINDS) else n - len(rows)
        assert not unique or want <= len(questions), (k, want, len(questions))
        deck = []
        while len(deck) < want:
            again = list(questions)
            rng.shuffle(again)
            deck += again
        rows += deck[:want]
    rng.shuffle(rows)
    return rows


def write_jsonl(path, rows):
    with open(path, "w", encoding="utf-8", newline="\n") as f:
        for row in rows:
            f.write(json.dumps(row, ensure_ascii=False) + "\n")
    print(f"{path}: {len(rows)} rows")


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", default=here, help="folder for the four files")
    args = parser.parse_args()
    rng = Rng(SEED)
    world = [kind(rng) for kind, _ in KINDS]
    check_world(world)
    train, heldout = split_world(world, rng)
    print(f"{sum(map(len, world))} facts, {sum(map(len, train))} training questions")
    pairs = [{"prompt": prompt_of(q), "chosen": direct(a), "rejected": evasive(a, rng)}
             for q, a in draw_rows(train, N_PAIRS, rng, unique=True)]
    held = [{"prompt": prompt_of(q), "chosen": direct(a), "rejected": evasive(a, rng), "answer": a}
            for q, a in heldout]
    sft = [{"prompt": prompt_of(q), "completion": direct(a) if rng.below(2) else evasive(a, rng)}
           for q, a in draw_rows(train, N_SFT, rng, unique=False)]
    facts = [{"prompt": prompt_of(q), "completion": direct(a)} for q, a in draw_rows(train, N_FACTS, rng, unique=False)]
    write_jsonl(os.path.join(args.out, "pairs.jsonl"), pairs)
    write_jsonl(os.path.join(args.out, "heldout.jsonl"), held)
    write_jsonl(os.path.join(args.out, "facts.jsonl"), facts)
    write_jsonl(os.path.join(args.out, "sft.jsonl"), sft)


if __name__ == "__main__":
    main()
