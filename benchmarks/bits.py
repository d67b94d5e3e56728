"""Check that theta has the same bits as before: run short trainings of every kind, and compare the sha256 of theta.

    python benchmarks/bits.py                       # compare with benchmarks/bits.json; exit code 1 if one differs
    python benchmarks/bits.py cases="mlp;text"      # only these cases
    python benchmarks/bits.py write=true            # accept a change of bits, and note it in CHANGELOG.md

All seeds are fixed. Libraries round differently on different processors, so all trainings use the same old processor
instructions (`PINNED`). Machines may still differ. So `PROBE` identifies the arithmetic of a machine, and
benchmarks/bits.json has separate hashes for each. If it has none for your machine, check out the commit before your
change and run `write=true` there first.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import tiny_llama
from bits_cases import CASES, FILES, Case

from es_rl.cli import run
from es_rl.config import parse
from es_rl.errors import ConfigError, TrainingError, lookup
from es_rl.keys import key

FILE = Path(__file__).with_suffix(".json")
# Environment variables of NumPy, OpenBLAS, torch, MKL and oneDNN: one thread, and only instructions with which every
# x86-64 processor since 2013 computes the same.
PINNED = {
    "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX512_SPR",
    "OPENBLAS_CORETYPE": "Haswell", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
    "ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "COMPATIBLE", "ONEDNN_MAX_CPU_ISA": "AVX2",
}  # fmt: skip
# A program that computes a few numbers with each library, and prints a short hash of the results.
PROBE = """
import hashlib, warnings
warnings.simplefilter("ignore")
import gymnasium, numpy as np, torch
torch.set_num_threads(1)
found = hashlib.sha256()
x = np.random.Generator(np.random.Philox(0)).normal(size=(64, 64))
for kind in (np.float32, np.float64):
    y = x.astype(kind)
    for value in (np.tanh(y), np.exp(y), np.log(np.abs(y)), y @ y, np.sin(y)):
        found.update(value.tobytes())
t = torch.from_numpy(x.astype(np.float32))
for value in (t @ t, t.tanh(), t.exp(), t.softmax(-1), torch.nn.functional.gelu(t)):
    found.update(value.numpy().tobytes())
env = gymnasium.make("HalfCheetah-v4")
env.reset(seed=0)
for row in x[:50, :6]:
    found.update(env.step(np.clip(row, -1, 1).astype(np.float32))[0].tobytes())
print(found.hexdigest()[:12])
"""


@dataclass(frozen=True)
class Keys:
    cases: str = key("", "names of cases, separated by semicolons; default: all")
    write: bool = key(False, "write the hashes to bits.json instead of comparing them")


def called(arguments: list[str], folder: Path) -> str:
    """Run Python in a directory with the variables of `PINNED`; return its output. Raises `TrainingError`."""
    paths = [str(folder), str(FILE.parent.parent), os.environ.get("PYTHONPATH", "")]
    env = os.environ | PINNED | {"PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=env, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise TrainingError(f"{' '.join(arguments)[:200]} … failed: {done.stderr.strip()[-500:]}")
    return done.stdout.strip()


def sha256(name: str, case: Case, folder: Path) -> str:
    """Train a case; return the sha256 of theta, including the observation statistics if there are any."""
    place = folder / name.replace(", ", "-").replace(" ", "-")
    if case.verb.endswith(".py"):
        called([case.verb, *case.arguments, str(place)], folder)
        return hashlib.sha256(place.read_bytes()).hexdigest()
    keys = [f"{k}={'null' if v is None else v}" for k, v in case.keys.items()]
    called(["-m", f"es_rl.{case.verb}", *keys, f"run={place}"], folder)
    return hashlib.sha256((place / "checkpoints" / "last" / "model.safetensors").read_bytes()).hexdigest()


def found(names: list[str]) -> dict[str, str]:
    """Train the cases and return their hashes."""
    hashes = {}
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        for name, text in FILES.items():
            (folder / name).write_text(text, encoding="utf-8")
        tiny_llama.write(folder / "tiny")
        for name in names:
            hashes[name] = sha256(name, CASES[name], folder)
            print(f"{hashes[name][:16]}  {name}", flush=True)
    return hashes


def arithmetic() -> str:
    """Return a short hash that identifies the arithmetic of this machine."""
    return called(["-c", PROBE], Path.cwd())


def differing(hashes: dict[str, str], known: dict[str, str]) -> list[str]:
    """Return the names of the cases whose hashes differ from the known ones."""
    return [name for name, value in hashes.items() if known.get(name) != value]


def main(argv: list[str]) -> int:
    keys = parse(Keys, argv)
    wanted = [word.strip() for word in keys.cases.split(";") if word.strip()] or list(CASES)
    for word in wanted:
        lookup(CASES, word, "cases")
    every = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    here = arithmetic()
    if not keys.write and here not in every:
        raise ConfigError(f"{FILE.name}: knows nothing of this machine ({here}). Write it at the commit before.")
    hashes = found(wanted)
    if keys.write:
        every[here] = every.get(here, {}) | hashes
        FILE.write_text(json.dumps(every, indent=1) + "\n", encoding="utf-8")
        return 0
    lost = differing(hashes, every[here])
    print(f"{len(hashes) - len(lost)} of {len(hashes)} as before" + (f"; not: {'; '.join(lost)}" if lost else ""))
    return bool(lost)


if __name__ == "__main__":
    run(main, sys.argv[1:])
