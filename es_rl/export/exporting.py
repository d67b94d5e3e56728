"""Write a run's policy as one file, and what its numbers mean beside it, once both are checked."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium

from es_rl.envs.spaces import shape_of
from es_rl.errors import ConfigError, EnvError, ResourceError, nearest
from es_rl.export import check, contract, files
from es_rl.export.config import ExportConfig
from es_rl.export.formats import FORMATS, check_installed
from es_rl.export.recorded import Recorded, drawn, opened, played
from es_rl.export.stepped import Stepped
from es_rl.observations import ObservationShape
from es_rl.plugins import module_rule
from es_rl.rl import agent as agents
from es_rl.run import atomic
from es_rl.workers.machine import use_one_thread

SUFFIXES = {kind.suffix: name for name, kind in FORMATS.items()}


def export(config: ExportConfig) -> str:
    """Write a run's policy and its contract. Return what was found when they were checked, for the user."""
    out, form = _place(config)
    agent = agents.of_run(config)
    check_installed(form)
    files.check_place(out)
    use_one_thread()
    stepped = Stepped(agent.policy, _seen(agent))
    with _environment(config, agent) as (env, why_none):
        recorded = drawn(agent) if env is None else played(env, agent, config.env or agent.config.env)
        around = contract.surroundings(env, agent.config.view)
    data = FORMATS[form].write(stepped, agent.action_space)
    found = _checked(agent, stepped, form, data, recorded)
    told = {
        **contract.identity(agent, file=out.name, form=form, sha256=_digest(data), model=_model(agent)),
        **contract.tensors(agent, stepped, form),
        **around,
        "unknown": f"rate_hz and robot: {why_none}" if why_none else None,
        "verified": contract.verified(found, recorded.source, len(recorded.episodes)),
    }
    files.write(out, data, told)
    return _summary(out, found, recorded, why_none)


def _seen(agent: agents.Agent) -> ObservationShape:
    """Return what the policy observes. Raises `EnvError` for what no file can take."""
    shape = shape_of(agent.observation_space)
    if shape.images and not shape.alone:
        parts = f"{len(shape.images)} image{'s' * (len(shape.images) > 1)} and {shape.numbers} numbers"
        raise EnvError(
            f"export: a file takes numbers, or one image, and this policy sees {parts}. Use it by es_rl.load, or train "
            f"one that sees the image alone."
        )
    return shape


def _place(config: ExportConfig) -> tuple[Path, str]:
    """Return the file to write and its format. Raises `ConfigError`."""
    if not config.out:
        raise ConfigError("out is missing: give the file to write, such as out=policy.onnx.")
    out = Path(config.out)
    if config.format == "auto" and out.suffix.lower() not in SUFFIXES:
        raise ConfigError(
            f"out={out}: must end in {', '.join(SUFFIXES)}.{nearest(out.suffix, SUFFIXES)} "
            f"Or give format={'|'.join(FORMATS)}."
        )
    if out.suffix.lower() == files.CONTRACT:
        raise ConfigError(f"out={out}: .json is the suffix of what is written beside it. Give another one.")
    return out, SUFFIXES[out.suffix.lower()] if config.format == "auto" else config.format


@contextlib.contextmanager
def _environment(
    config: ExportConfig, agent: agents.Agent
) -> Iterator[tuple[gymnasium.Env[Any, Any] | None, str | None]]:
    """Make the environment, and close it at the end; or give None, and why there is none.

    Raises `EnvError` if one is given and cannot be made. The run's own may be missing: a policy can be exported where
    its simulator is not installed.
    """
    own = agent.config.env
    if not config.env and ":" in own:
        yield None, module_rule("env", own, config.run).rstrip(".")
        return
    with contextlib.ExitStack() as stack:
        try:
            made = stack.enter_context(opened(config.env or own, agent))
        except (EnvError, ResourceError) as error:
            if config.env:
                raise
            why = str(error).rstrip(".")
        else:
            yield made, None
            return
    yield None, why


def _checked(agent: agents.Agent, stepped: Stepped, form: str, data: bytes, recorded: Recorded) -> check.Verified:
    player = FORMATS[form].open(data, stepped, len(recorded.episodes))
    scale = check.scales(agent.action_space)
    return check.compared(agent.policy, stepped.memory, player, recorded.episodes, scale)


def _model(agent: agents.Agent) -> str:
    """Return the sha256 of the checkpoint's policy."""
    assert agent.path is not None  # it was read from a checkpoint
    with atomic.reading(agent.path):
        return _digest(atomic.contents_of(agent.path / "model.safetensors"))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _summary(out: Path, found: check.Verified, recorded: Recorded, why_none: str | None) -> str:
    state = "" if found.state_difference is None else f", of its state {found.state_difference:.2g}"
    ties = f", {found.ties} ties" if found.ties else ""
    lines = [
        f"{out}: {out.stat().st_size / 1e3:,.0f} kB, and {out.with_suffix(files.CONTRACT).name}",
        f"checked on {found.observations:,} observations of {recorded.source}: largest difference of an action "
        f"{found.action_difference:.2g}{state}{ties}",
    ]
    return "\n".join([*lines, *([f"unknown: rate and robot, since {why_none}"] if why_none else [])])
