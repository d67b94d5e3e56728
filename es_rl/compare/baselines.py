"""Train and evaluate one opponent of es_rl.

    python -m es_rl.compare.baselines name=ppo env=Hopper-v5 minutes=5 seed=0 out=DIRECTORY

Writes `DIRECTORY/curve.jsonl` during training, `DIRECTORY/result.json` at the end, and a video if `film` is set. The
policy of ppo_fast is written as `policy.safetensors`: a training with `init` can start from it. An opponent is one
function in `BASELINES`: it trains until the clock stops it and returns its policy, a function from one observation to
one action.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from safetensors.torch import save_file

from es_rl import cli, envs
from es_rl.compare.config import BaselineConfig
from es_rl.compare.judge import Act, Policy, acting, episodes, make_env
from es_rl.compare.opponents import evotorch, ppo_fast, sb3
from es_rl.compare.opponents.clock import Clock, Meter
from es_rl.compare.opponents.rl_zoo import ARS, PPO, SAC
from es_rl.config import flatten, help_text, parse
from es_rl.envs.renderer import choose_renderer
from es_rl.envs.spaces import one_line
from es_rl.errors import ConfigError, EnvError, TrainingError, lookup, missing_extra
from es_rl.rl.films.files import write_mp4
from es_rl.rl.films.film import Take, filming
from es_rl.rl.presets import family
from es_rl.rng import integer_seed
from es_rl.run.atomic import write_json
from es_rl.run.directory import reporting
from es_rl.run.signals import stopped_by_signals

USAGE = (
    "python -m es_rl.compare.baselines name=NAME env=ID out=DIRECTORY [key=value …]   train and evaluate one baseline"
)


def random(config: BaselineConfig, clock: Clock) -> Act:
    """Return a policy of uniformly random actions. Nothing is trained."""
    env = make_env(config)
    env.close()
    space = env.action_space
    space.seed(integer_seed(config.seed, "policy"))
    return lambda obs: space.sample()


BASELINES: dict[str, Callable[[BaselineConfig, Clock], Act]] = {
    "ppo_fast": ppo_fast.ppo_fast,
    "ppo": sb3.ppo,
    "sac": sb3.sac,
    "ars": sb3.ars,
    "evotorch": evotorch.evotorch,
    "random": random,
}
MANY = ("ppo_fast", "ppo", "sac")  # contenders that can have several environments in one process
# contender → the extra of es-rl to install, and the libraries that it must bring.
LIBRARIES = {
    "ppo_fast": ("baselines", ("stable_baselines3",)),
    "ppo": ("baselines", ("stable_baselines3",)),
    "sac": ("baselines", ("stable_baselines3",)),
    "ars": ("baselines", ("stable_baselines3", "sb3_contrib")),
    "evotorch": ("peers", ("evotorch", "ray")),
}
ZOO = {
    "ppo": ("PPO (Stable-Baselines3", PPO, ", normalised"),
    "sac": ("SAC (Stable-Baselines3", SAC, ""),
    "ars": ("ARS (sb3-contrib", ARS, ", normalised"),
}
# The kinds of spaces that a contender can act in; one that is not here acts in all.
SB3_ACTS_IN = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
ACTS_IN: dict[str, tuple[type[spaces.Space[Any]], ...]] = {
    "ppo_fast": SB3_ACTS_IN, "ppo": SB3_ACTS_IN, "sac": (spaces.Box,), "ars": (spaces.Box, spaces.Discrete),
    "evotorch": (spaces.Box, spaces.Discrete),
}  # fmt: skip
# The settings of each contender by environment; `EVERYWHERE` has those for every environment.
TABLES: dict[str, Mapping[str, dict[str, Any]]] = {
    "ppo_fast": ppo_fast.SETTINGS, "ppo": PPO, "sac": SAC, "ars": ARS, "evotorch": evotorch.SETTINGS,
}  # fmt: skip
EVERYWHERE = {"ppo_fast": ppo_fast.DEFAULTS, "evotorch": evotorch.DEFAULTS}
NAMED = {
    "es": "es_rl",
    "ppo_fast": "PPO (Stable-Baselines3, es_rl's environments)",
    "evotorch": "PGPE with ClipUp (EvoTorch)",
    "random": "random actions",
}


def label(name: str, env: str) -> str:
    """Return the name of a contender in reports, with the source of its settings."""
    if name in NAMED:
        return NAMED[name]
    text, table, normalised = ZOO[name]
    return f"{text}, {'RL-Zoo settings' if family(env) in table else f'default settings{normalised}'})"


def settings(name: str, env: str) -> dict[str, Any]:
    """Return a contender's settings for an environment, with dotted names; empty if its library's defaults apply."""
    return flatten({**EVERYWHERE.get(name, {}), **TABLES.get(name, {}).get(family(env), {})})


def check_libraries(names: Sequence[str]) -> None:
    """Raise `ResourceError` if a contender's library is not installed. Call it before any training."""
    missing, extras = [], []
    for name in names:
        extra, libraries = LIBRARIES.get(name, ("", ()))
        if lost := [library for library in libraries if importlib.util.find_spec(library) is None]:
            missing.append(f"{' and '.join(lost)} for {name}")
            extras.append(extra)
    if missing:
        raise missing_extra(f"these packages are not installed: {'; '.join(missing)}", *extras)


def check_spaces(name: str, env: str, action: spaces.Space[Any]) -> None:
    """Raise `EnvError` if a contender cannot act in an environment."""
    acts_in = ACTS_IN.get(name)
    if acts_in is None or isinstance(action, acts_in):
        return
    if name == "sac":
        raise EnvError(f"env={env}: SAC acts in continuous spaces only, and this is {one_line(action)}. Leave sac out.")
    kinds = ", ".join(kind.__name__ for kind in acts_in)
    raise EnvError(f"env={env}: {name} acts in {kinds} only, and this is {one_line(action)}. Leave {name} out.")


def main(argv: Sequence[str]) -> int:
    """Run the verb and return the exit code."""
    if cli.asks_for_help(argv):
        return cli.show(help_text(BaselineConfig, USAGE))
    config = parse(BaselineConfig, argv)
    if not config.env or not config.out:
        raise ConfigError("env and out are needed: give both, such as env=Hopper-v5 out=runs/ppo.")
    baseline = lookup(BASELINES, config.name, "name")
    if config.film:
        choose_renderer()  # before MuJoCo is imported, which reads it then
    _check(config)
    out = Path(config.out)
    with reporting(out):
        out.mkdir(parents=True, exist_ok=True)
    use_threads(config.threads or 1)
    with stopped_by_signals():  # child processes are ended on the way out
        if config.measure:
            meter = Meter(config)
            baseline(config, meter)
            write_json(out / "speed.json", meter.resources | {"steps_per_second": meter.speed})
            return 0
        clock = Clock(config, out / "curve.jsonl")
        act = baseline(config, clock)
        write_json(out / "result.json", _judge(config, clock, act))
        if isinstance(act, Policy) and act.tensors is not None:
            save_file(act.tensors(), out / "policy.safetensors")
        if config.film:
            _film(config, act, out / "video.mp4")
    return 0


def _check(config: BaselineConfig) -> None:
    """Raise `ConfigError`, `EnvError` or `ResourceError` for what cannot be trained. Call it before training."""
    check_libraries([config.name])
    envs.check_id(config.env)
    if config.environments is not None and config.name not in MANY:
        raise ConfigError(
            f"environments={config.environments}: {config.name} has one in each process. Give processes instead."
        )
    if config.measure and config.name == "random":
        raise ConfigError(f"measure={config.measure:g}: random trains nothing whose speed could be measured.")
    if config.settings and config.name == "random":
        raise ConfigError("settings: the random policy has none. Leave them out.")
    spec = envs.probe(config.env, config.env_kwargs, integer_seed(config.seed, "probe"), "gymnasium")
    check_spaces(config.name, config.env, spec.action_space)


def use_threads(count: int) -> None:
    """Let torch and NumPy in this process compute on exactly `count` threads."""
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(count)
    threadpool_limits(count)


def _judge(config: BaselineConfig, clock: Clock, act: Act) -> dict[str, Any]:
    """Evaluate a trained policy and return the result. Raises `TrainingError` without updates or if episodes fail."""
    seconds, cpu = clock.seconds, clock.cpu_seconds
    clock.check_updates()
    returns, lengths = episodes(act, config, config.episodes)
    if not np.isfinite(returns).all():
        raise TrainingError(f"name={config.name}: {(~np.isfinite(returns)).sum()} of {len(returns)} episodes failed.")
    speed = clock.env_steps / seconds if seconds else 0.0
    return {
        "return_mean": float(returns.mean()),
        "return_std": float(returns.std()),
        "length_mean": float(lengths.mean()),
        "env_steps": clock.env_steps,
        "seconds": seconds if clock.env_steps else 0.0,
        "cpu_seconds": cpu if clock.env_steps else 0.0,
        "family_seconds": clock.family_seconds,
        "resources": clock.resources | {"steps_per_second": speed},
    }


def _film(config: BaselineConfig, act: Act, path: Path) -> None:
    """Write the video, or the reason why there is none into a .txt file in its place."""
    take = Take(
        act=acting(config, act), reset=lambda: None, env=config.env, env_kwargs=config.env_kwargs, seconds=config.film,
        seed=0, caption="",
    )  # fmt: skip
    try:
        with filming(take) as film:
            write_mp4(path, film.frames, film.fps, config.film)
    except EnvError as error:
        path.with_suffix(".txt").write_text(str(error), encoding="utf-8")


if __name__ == "__main__":
    cli.run(main)
