"""Publish a run's policy on the Hugging Face Hub: weights, keys, a model card with a fresh evaluation, and the film."""

from __future__ import annotations

import ast
import base64
import contextlib
import hashlib
import json
import math
import shlex
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from es_rl.arguments.values import parsed
from es_rl.config import as_text, to_yaml
from es_rl.errors import ConfigError
from es_rl.hub import card, client
from es_rl.hub.address import check_repo, is_address
from es_rl.rl import agent as agents
from es_rl.rl.config import EvaluateConfig, PushConfig, RecordConfig
from es_rl.rl.verbs.evaluation import measure, summary
from es_rl.rl.verbs.recording import default_file, record
from es_rl.run import VERSIONS, atomic, checkpoint, directory
from es_rl.workers.cluster.config import ClusterConfig

CONTRACT = "contract.json"  # what the numbers of an exported policy mean
SOMETIMES = (card.FILM, CONTRACT)  # files that not every policy has


def publish(config: PushConfig) -> None:
    """Evaluate a run's policy, write its files and upload them, or only write them. Say where they are."""
    check_repo(config.repo)
    if is_address(config.run):
        raise ConfigError(f"run={config.run}: is published already. Give the directory of a run.")
    if config.out and Path(config.out).exists():
        raise ConfigError(f"out={config.out}: is there already. Give the name of a new directory.")
    config = agents.located(config)
    agent, env = agents.trusted(config)
    config = replace(config, checkpoint=str(agent.generation))  # the run may go on meanwhile
    directory.check_inside(Path(config.run))  # what a link leads to must not be published
    if not config.out:
        client.check_login(config.repo)  # before the work
    with _place(config.out) as place:
        folder = place / "files"
        film = _film(config, agent, env)
        facts = _facts(config, agent, env, film=film is not None)
        _write(folder, config, agent, film, card.card(facts))
        _publish(config, folder, facts)


def _publish(config: PushConfig, folder: Path, facts: card.Facts) -> None:
    """Upload a folder, or rename it to `out`, and say so."""
    if config.out:
        with directory.reporting(Path(config.out), "Give another directory with out=DIRECTORY"):
            folder.rename(config.out)
        where = f"{config.out}: written, nothing uploaded"
    else:
        message = config.message or f"Generation {facts.generation}: {summary(facts.result)}"
        where = client.upload(folder, config.repo, private=config.private, message=message, ours=SOMETIMES)
    sys.stdout.write(f"{summary(facts.result)}\n{where}\n")


@contextlib.contextmanager
def _place(out: str) -> Iterator[Path]:
    """Make a directory for the files, beside `out` if it is given, and delete it at the end."""
    with contextlib.ExitStack() as stack:
        with directory.reporting(Path(out or tempfile.gettempdir()), "Give another directory with out=DIRECTORY"):
            parent = Path(out).absolute().parent if out else None
            if parent:
                parent.mkdir(parents=True, exist_ok=True)
            made = stack.enter_context(tempfile.TemporaryDirectory(prefix=".writing-", dir=parent))
        yield Path(made)


def _film(config: PushConfig, agent: agents.Agent, env: str) -> Path | None:
    """Return the film of the checkpoint: the one that is there, or a new one if it is asked for."""
    keys = RecordConfig(config.run, config.checkpoint, config.env, config.policy, config.env_kwargs, seed=config.seed)
    if config.video is False:
        return None
    there = default_file(keys, agent, env)
    if there.is_file():
        return there
    return record(keys) if config.video else None


def _contract(run: Path, weights: bytes) -> bytes | None:
    """Return what a file in a run says about an export of just these weights; None if there is no such file."""
    digest = hashlib.sha256(weights).hexdigest()
    for path in sorted(run.glob("*.json")):
        with contextlib.suppress(OSError, ValueError, AttributeError, RecursionError):
            contents = atomic.contents_of(path)
            if json.loads(contents).get("model_sha256") == digest:
                return contents
    return None


def _write(folder: Path, config: PushConfig, agent: agents.Agent, film: Path | None, readme: str) -> None:
    """Write all files that are published: those that are needed to act with their manifest, the card, and others."""
    saved = checkpoint.load(Path(config.run), config.checkpoint).path
    with atomic.reading(saved):
        contents = atomic.read(saved, (client.WEIGHTS, client.STATE))
    own = agents.load(config.run, config.checkpoint, policy=config.policy).config.env_kwargs
    # Without what is of this machine only.
    keys = replace(agent.config, env_kwargs=own, run="", init="", track=[], cluster=ClusterConfig())
    contract = _contract(Path(config.run), contents[client.WEIGHTS])
    with directory.reporting(folder, "Free the disk, or set TMPDIR"):
        atomic.write(folder, {**contents, client.KEYS: to_yaml(keys).encode()})
        (folder / card.FILE).write_text(readme, encoding="utf-8")
        if film is not None:
            (folder / card.FILM).write_bytes(atomic.contents_of(film))
        if contract is not None:
            (folder / CONTRACT).write_bytes(contract)


def _facts(config: PushConfig, agent: agents.Agent, env: str, *, film: bool) -> card.Facts:
    """Evaluate the policy. Return what its card tells."""
    keys = EvaluateConfig(
        config.run, config.checkpoint, config.env, config.policy, config.env_kwargs, episodes=config.episodes,
        seed=config.seed,
    )  # fmt: skip
    trained = agent.config
    progress = checkpoint.load(Path(config.run), config.checkpoint).progress
    again = [f"env={env}"] if ":" in env or env != trained.env else []
    return card.Facts(
        repo=config.repo,
        env=env,
        trained_env=trained.env,
        policy=trained.policy,
        parameters=sum(parameter.numel() for parameter in agent.policy.parameters()),
        generation=agent.generation,
        env_steps=progress.steps,
        minutes=progress.seconds / 60,
        seed=trained.seed,
        result=measure(agent, env, keys),
        command=_command(Path(config.run)),
        versions=_versions(Path(config.run)),
        arguments=_arguments(trained.env_kwargs),
        keys=[*again, *([f"policy={trained.policy}"] if ":" in trained.policy else []), *_arguments(config.env_kwargs)],
        film=film,
    )


def _arguments(env_kwargs: Mapping[str, Any]) -> list[str]:
    """Return arguments of an environment as they are given on the command line."""
    return [f"env_kwargs.{name}={_typed(value)}" for name, value in env_kwargs.items()]


def _typed(value: Any, *, inside: bool = False) -> str:
    """Return a value of an open key as it is typed, so that the same is read: the text "1.5" needs its quotes.

    What is `inside` a list or a dictionary has its quotes always.
    """
    if isinstance(value, Mapping):
        parts = (f"{_typed(name, inside=True)}: {_typed(part, inside=True)}" for name, part in value.items())
        return f"{{{', '.join(parts)}}}"
    if isinstance(value, list):
        return f"[{', '.join(_typed(part, inside=True) for part in value)}]"
    if isinstance(value, bytes):
        return f'!!binary "{base64.b64encode(value).decode()}"'
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value}".replace("inf", ".inf").replace("nan", ".nan")
    if not isinstance(value, str):
        return as_text(value)
    with contextlib.suppress(Exception):  # no value at all, such as "a: b: c"
        if not inside and parsed(value) == value:
            return value
    return json.dumps(value, ensure_ascii=False)


def _command(run: Path) -> str:
    """Return the command that began a run, without the place where it was written; empty if it is not known."""
    text = directory.command_of(run)
    if text.startswith("es_rl."):
        return _in_python(text)
    with contextlib.suppress(ValueError):
        words = shlex.split(text)
        if words[:2] == ["python", "-m"] or words[:1] == ["es-rl"]:
            return shlex.join(_without_run(words))
    return ""


def _without_run(words: Sequence[str]) -> Iterator[str]:
    """Yield the words of a command except run=PLACE, however it is spelt."""
    skip = False
    for word in words:
        name, equals, _ = word.removeprefix("--").partition("=")
        if not skip and name != "run":
            yield word
        skip = name == "run" and not equals


def _in_python(text: str) -> str:
    """Return the code that began a run, without run=PLACE; empty if it is none, or one that loads another run."""
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ""
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        if isinstance(call.func, ast.Attribute) and call.func.attr == "load":
            return ""
        call.keywords = [keyword for keyword in call.keywords if keyword.arg != "run"]
    return ast.unparse(tree)


def _versions(run: Path) -> dict[str, str]:
    """Return the versions with which a run began; none if they are not known."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        found = json.loads(atomic.contents_of(run / VERSIONS))
        return {str(name): str(version) for name, version in found.items()}
    return {}
