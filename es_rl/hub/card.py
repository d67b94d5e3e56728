"""The model card: what a policy is, what it reaches, how it was trained and how to run it, for people and for the Hub.

Its metadata has the form that leaderboards of reinforcement learning read: one result whose metric is `mean_reward`,
written as `mean +/- standard deviation`.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from omegaconf import OmegaConf

from es_rl.errors import printable
from es_rl.hub.address import SCHEME

FILE, FILM = "README.md", "replay.mp4"  # names that the Hub looks for
TASK = "reinforcement-learning"


@dataclass(frozen=True)
class Facts:
    """What a card tells."""

    repo: str
    env: str  # in which it was evaluated
    trained_env: str
    policy: str
    parameters: int
    generation: int
    env_steps: int
    minutes: float
    seed: int  # of the training
    result: Mapping[str, Any]  # of the evaluation, as `es_rl.evaluate` prints it
    command: str = ""  # that began the training; empty if it is not known
    versions: Mapping[str, str] = field(default_factory=dict)  # of the training
    arguments: Sequence[str] = ()  # of the environment, as key=value
    keys: Sequence[str] = ()  # that the verbs need besides run, as key=value
    film: bool = False


def card(facts: Facts) -> str:
    """Return the text of README.md."""
    parts = [f"# {facts.repo.partition('/')[2]}", _summary(facts), _table(_rows(facts))]
    if facts.film:
        parts += [f"[Film]({FILM})"]
    parts += ["## Use", _use(facts), "## Training"]
    if facts.command:
        language = "python" if facts.command.startswith("es_rl.") else "sh"
        parts += ["The run began with", _fenced(facts.command, language)]
    if facts.versions:
        parts += [
            _table([(_cell(name), _code(version)) for name, version in facts.versions.items()], ("package", "version"))
        ]
    return f"---\n{OmegaConf.to_yaml(OmegaConf.create(metadata(facts)))}---\n\n" + "\n\n".join(parts) + "\n"


def metadata(facts: Facts) -> dict[str, Any]:
    """Return the card's metadata: tags, and the result as a `model-index`."""
    env = facts.env.rpartition(":")[2]
    reward = f"{facts.result['return_mean']:.2f} +/- {facts.result['return_std']:.2f}"
    result = {
        "task": {"type": TASK, "name": TASK},
        "dataset": {"type": env, "name": env},
        "metrics": [{"type": "mean_reward", "value": reward, "name": "mean_reward", "verified": False}],
    }
    return {
        "library_name": "es_rl",
        "pipeline_tag": TASK,
        "tags": [TASK, env, "es_rl", "evolution-strategies"],
        "model-index": [{"name": "evolution strategies", "results": [result]}],
    }


def _summary(facts: Facts) -> str:
    return (
        f"A policy for {_code(facts.env)}, trained by evolution strategies with es_rl: no gradient of the policy, no "
        f"replay buffer."
    )


def _rows(facts: Facts) -> list[tuple[str, str]]:
    result = facts.result
    played = f"{result['episodes']} episodes, evaluation seed {result['seed']}"
    failed = f"; {result['failed']} of them failed and are left out" if result["failed"] else ""
    trained = "" if facts.env == facts.trained_env else f", trained in {_code(facts.trained_env)}"
    rows = [
        ("task", _code(facts.env) + trained),
        ("return", f"**{result['return_mean']:.1f} ± {result['return_std']:.1f}**, mean and standard deviation"),
        ("", f"from {result['return_min']:.1f} to {result['return_max']:.1f} in {played}{failed}"),
        ("episode", f"{result['length_mean']:.1f} steps on average"),
        ("policy", f"{_code(facts.policy)}, {facts.parameters:,} parameters"),
        ("training", f"{facts.generation:,} generations, {facts.env_steps:,} environment steps, {facts.minutes:.1f} "
                     f"minutes, one seed: {facts.seed}"),
    ]  # fmt: skip
    if facts.arguments:
        rows.insert(1, ("arguments", " ".join(map(_code, facts.arguments))))
    return rows


def _use(facts: Facts) -> str:
    address = f"{SCHEME}{facts.repo}"
    keys = "".join(f" {shlex.quote(key)}" for key in facts.keys)
    seen = f"episodes={facts.result['episodes']} seed={facts.result['seed']}"
    again = f", policy={json.dumps(facts.policy)}" if ":" in facts.policy else ""
    in_python = f'''import es_rl

policy = es_rl.load("{address}"{again})
action = policy(obs)  # one observation; policy.reset() between episodes'''
    commands = f"""python -m es_rl.evaluate run={address} {seen}{keys}
python -m es_rl.record run={address} out=film.mp4{keys}
python -m es_rl.play run={address}{keys}"""
    return f"""Install es_rl with its extra `hub`: `pip install -e '.[hub]'` in its checkout.

{_fenced(in_python, "python")}

{_fenced(commands, "sh")}

The weights are safetensors, all else is JSON and YAML. `MANIFEST.json` has their sha256, and loading checks it."""


# A run may come from a stranger: no text of it may end the place where it is shown.
def _cell(text: str) -> str:
    """Return a text as it may stand in a table."""
    return printable(text).translate({ord(mark): None for mark in "`|<>[]"})


def _code(text: str) -> str:
    """Return a text as code, in a sentence or in a table."""
    return f"`{printable(text).translate({ord(mark): None for mark in '`|'})}`"


def _fenced(text: str, language: str) -> str:
    """Return lines of code in a fence that none of them can end."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    lines = "\n".join(map(printable, text.split("\n")))
    return f"{fence}{language}\n{lines}\n{fence}"


def _table(rows: Sequence[tuple[str, str]], head: tuple[str, str] = ("", "")) -> str:
    return "\n".join(f"| {one} | {two} |" for one, two in [head, ("---", "---"), *rows])
