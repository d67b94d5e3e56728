"""Write the data sets of the language-model examples: Countdown problems, and questions with short answers.

    python scripts/make_prompts.py                       # write examples/data/*.jsonl as they are in the repository
    python scripts/make_prompts.py out=DIRECTORY train=2000 test=200 seed=1

Every Countdown problem has a solution: its target is the value of a random expression of its numbers.
"""

import json
import sys
from pathlib import Path

from es_rl.cli import run
from es_rl.config import pairs
from es_rl.rewards.countdown import evaluate
from es_rl.rng import stream

DATA = Path(__file__).parent.parent / "examples" / "data"
COUNTDOWN = (
    "Using the numbers {numbers}, write an expression that equals {target}. You may use + - * / and brackets, and must "
    "use each number exactly once. Think inside <think> </think>, then write only the expression inside <answer> "
    "</answer>, such as <answer>(1 + 2) * 3</answer>."
)
CAPITALS = (
    "France Paris, Italy Rome, Spain Madrid, Germany Berlin, Japan Tokyo, China Beijing, Russia Moscow, Egypt Cairo, "
    "Greece Athens, Portugal Lisbon, Austria Vienna, Poland Warsaw, Sweden Stockholm, Norway Oslo, Finland Helsinki, "
    "Denmark Copenhagen, Ireland Dublin, Hungary Budapest, Cuba Havana, Canada Ottawa, Peru Lima, Chile Santiago, "
    "Kenya Nairobi, Turkey Ankara, Iran Tehran, Iraq Baghdad, India Delhi, Thailand Bangkok, Belgium Brussels, "
    "Bulgaria Sofia, Romania Bucharest, Ukraine Kyiv, Cyprus Nicosia, Iceland Reykjavik, Australia Canberra"
)
OPPOSITES = (
    "hot cold, big small, fast slow, up down, early late, happy sad, light dark, rich poor, strong weak, hard soft, "
    "full empty, open closed, old new, wet dry, high low, left right, loud quiet, clean dirty, thick thin, deep shallow"
)
PLURALS = (
    "child children, mouse mice, foot feet, tooth teeth, goose geese, man men, leaf leaves, knife knives, wolf wolves, "
    "city cities, box boxes, bus buses, potato potatoes, baby babies, sheep sheep"
)


def countdown(rng):
    """Return one problem. Its target is the value of a random expression of its numbers, an integer from 1 to 99."""
    while True:
        numbers = [int(n) for n in rng.integers(1, 50, size=rng.integers(3, 5))]
        parts = [str(n) for n in numbers]
        while len(parts) > 1:
            i, j = sorted(rng.choice(len(parts), size=2, replace=False))
            other, one = parts.pop(j), parts.pop(i)
            parts.append(f"({one}{'+-*/'[rng.integers(4)]}{other})")
        try:
            value, _ = evaluate(parts[0])
        except ValueError:
            continue
        if value.denominator == 1 and 1 <= value <= 99:
            shown = ", ".join(map(str, numbers))
            asked = COUNTDOWN.format(numbers=shown, target=value)
            return {"prompt": [{"role": "user", "content": asked}], "numbers": numbers, "target": int(value)}


def questions(rng):
    """Return all questions with their shortest answers, in random order."""
    found = []
    for text, form in ((CAPITALS, "What is the capital of {}?"), (OPPOSITES, "What is the opposite of {}?"),
                       (PLURALS, "What is the plural of {}?")):  # fmt: skip
        found += [(form.format(asked), answer) for asked, answer in (pair.split() for pair in text.split(", "))]
    found += [(f"What is {a} plus {b}?", str(a + b)) for a in range(2, 10) for b in range(a, 10) if (a + b) % 3]
    order = rng.permutation(len(found))
    return [{"prompt": [{"role": "user", "content": found[i][0]}], "answer": found[i][1]} for i in order]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def main(argv):
    keys = {"out": str(DATA), "train": "200", "test": "64", "seed": "0"} | pairs(argv)
    out, train, test = Path(keys["out"]), int(keys["train"]), int(keys["test"])
    out.mkdir(parents=True, exist_ok=True)
    seen = {}
    rng = stream(int(keys["seed"]), "data", 0)
    while len(seen) < train + test:
        row = countdown(rng)
        seen.setdefault((*sorted(row["numbers"]), row["target"]), row)
    problems = list(seen.values())
    write(out / "countdown-train.jsonl", problems[:train])
    write(out / "countdown-test.jsonl", problems[train:])
    rows = questions(stream(int(keys["seed"]), "data", 1))
    held_out = len(rows) // 3
    write(out / "conciseness-train.jsonl", rows[held_out:])
    write(out / "conciseness-test.jsonl", rows[:held_out])
    return 0


if __name__ == "__main__":
    run(main, sys.argv[1:])
