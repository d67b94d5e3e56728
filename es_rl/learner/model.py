"""Train an agent from Python, in the habits of Stable-Baselines3.

    model = es_rl.ES("mlp", "HalfCheetah-v5", seed=1)
    model.learn(200_000)                      # environment steps; call it again to go on
    action, _ = model.predict(obs)            # one observation, or a batch
    model.save("cheetah")                     # es_rl.ES.load("cheetah") goes on from here

A model has the keys of `python -m es_rl.train`, and trains in a run directory as that does, to the same bits. Policy
and environment may be functions: see `ES`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from es_rl import policies
from es_rl.arguments.origins import NOWHERE, PYTHON
from es_rl.config import build, flatten, open_keys, tree_of
from es_rl.envs.registry import given
from es_rl.envs.spaces import shape_of
from es_rl.errors import ConfigError, Stopped
from es_rl.es.strategy import ESState
from es_rl.export.config import ExportConfig
from es_rl.export.exporting import export
from es_rl.learner import saving
from es_rl.learner.filming import film
from es_rl.learner.given import STOP_RULES, again_given, as_code, callbacks_of, changed, exception_of, flat, until
from es_rl.plugins import Given
from es_rl.record import Films
from es_rl.rl.agent import Agent
from es_rl.rl.config import Config, EvaluateConfig, RecordConfig, new_config, resume_config
from es_rl.rl.task import probed
from es_rl.rl.verbs.evaluation import measure
from es_rl.rl.verbs.training import check, create, located_init, prepare, train
from es_rl.run import CONFIG
from es_rl.run.checkpoint import Progress
from es_rl.run.resume import resumed, saved_keys
from es_rl.run.task import DEFAULT_MINUTES, Training
from es_rl.workers.machine import as_in_workers
from es_rl.workers.pool import Workers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Record = dict[str, Any]
NO_FILMS = {"video.every": -1}  # by default: `record` films


class ES:
    """An agent that evolution strategies train.

    `policy` is a name, such as `mlp` or `gru`, or a function of (observation_space, action_space) that returns an
    `nn.Module`: see `es_rl.policies.outside`. `env` is an id, or a function that makes a `gymnasium.Env`; both may be
    written in a notebook. `keys` are those of the command line: `es={"population": 64}`, or
    `**{"es.population": 64}`. Without `workers`, there is one worker process per processor; 0 is none.

    `history` holds the record of each generation, as metrics.jsonl does, but for generation 0. `run` is the run
    directory, from the first `learn` on. Raises `ConfigError` for a wrong key, and `EnvError` for an environment or a
    policy that cannot be used.
    """

    def __init__(
        self,
        policy: str | Callable[..., nn.Module],
        env: str | Callable[..., Any],
        *,
        seed: int = 0,
        workers: int | None = None,
        **keys: Any,
    ) -> None:
        named = policy if isinstance(policy, str) else Given(policy)
        wanted = flat(keys | {"seed": seed} | ({} if workers is None else {"workers": workers}))
        typed = {"policy": str(named), "env": str(given(env)), **NO_FILMS, **wanted}
        config, self._origins = new_config(typed, by=PYTHON)
        config = located_init(config)
        self._command = f"es_rl.ES({as_code([named, given(env)], wanted)})"
        self._begin(replace(config, policy=named, env=given(env)), config.init)

    def _begin(self, config: Config, init: str = "") -> Training:
        """Set the state before the first generation, from another run's policy if `init` names one."""
        check(config)
        self.config = config
        self.run: Path | None = None
        with as_in_workers(), Workers(0) as nobody:
            self._spec = probed(config)
            training = prepare(config, Path(), init, Films, self._spec, nobody, lambda text: None)
        self.observation_space, self.action_space = self._spec.observation_space, self._spec.action_space
        self._about, self._state, self._progress = training.about, training.state, Progress()
        self._first: list[Record] = []  # the evaluation before the first generation
        self.history: list[Record] = []
        self._agent: Agent | None = None
        return training

    def __repr__(self) -> str:
        at = f"generation {self.generation}, {self.env_steps:,} steps"
        return f"<ES {self.config.policy} on {self.config.env}: {at}, run={str(self.run) if self.run else None!r}>"

    @property
    def agent(self) -> Agent:
        """The trained policy, to act with as that of `es_rl.load`: `model.agent(obs)`."""
        if self._agent is None:
            with as_in_workers():
                policy = policies.make(self.config, shape_of(self.observation_space), self.action_space)
            self._agent = Agent(policy, self.config, (self.observation_space, self.action_space))
            self._show()
        return self._agent

    @property
    def policy(self) -> nn.Module:
        """The trained policy, a plain module: observations (n, O), state → actions, state."""
        return self.agent.policy

    @property
    def generation(self) -> int:
        """Number of generations so far."""
        return self._state.generation

    @property
    def env_steps(self) -> int:
        """Number of environment steps of all members so far."""
        return self._progress.steps

    def learn(
        self,
        env_steps: float | None = None,
        *,
        generations: int | None = None,
        minutes: float | None = None,
        target_return: float | None = None,
        callback: Callable[[ES, Record], Any] | Any = None,
        progress_bar: bool = True,
        **unknown: Any,
    ) -> ES:
        """Train for this many more environment steps, generations or minutes, or up to a return; return the model.

        The first rule that is met counts. Without any, those among the keys hold, and without these an hour. A callback
        is a function of (model, record), or an object with such a method `on_generation`, as those of
        `es_rl.callbacks`. It is called after each generation; one that returns True ends `learn`.
        `progress_bar=False` shows nothing but warnings. Ctrl-C raises KeyboardInterrupt; SIGTERM raises SystemExit, so
        that a program ends with code 75. Whatever stops it, finished generations are saved, and `learn` goes on there.
        """
        rules = zip(STOP_RULES, (env_steps, generations, minutes, target_return), strict=True)
        wanted = {name: value for name, value in rules if value is not None} | unknown
        done = {"env_steps": self.env_steps, "generations": self.generation, "minutes": self._progress.seconds / 60}
        kept = any(getattr(self.config, name) is not None for name in STOP_RULES)
        more = wanted or ({} if kept else {"minutes": DEFAULT_MINUTES})
        config = changed(self.config, until(more, done)) if more else self.config
        callbacks = callbacks_of(callback)

        def on_generation(state: ESState, progress: Progress, record: Record) -> bool:
            self._state, self._progress = state, progress
            self._show()
            if not record["generation"]:
                self._first = [record]
                return False
            self.history.append(record)
            return True in [each(self, record) for each in callbacks]

        run, again = self._directory(config)
        try:
            with as_in_workers():
                train(
                    config, run, f"{self._command}.learn({as_code([], wanted)})", Films, resumed=again,
                    spec=self._spec, on_generation=on_generation, quiet=not progress_bar, origins=self._origins,
                )  # fmt: skip
        except Stopped as stop:
            raise exception_of(stop) from None
        finally:
            self.run = run if (run / CONFIG).is_file() else self.run
        return self

    def _directory(self, config: Config) -> tuple[Path, bool]:
        """Return the directory to train in, and whether a run goes on there.

        It is the model's own run. If there is none, or it is gone, or another training has gone on there, a trained
        model begins a new one, from all that it knows.
        """
        if self.run is not None and saving.is_at(self.run, self.generation):
            return self.run, True
        run = create(config if self.run is None else replace(config, run="")).absolute()
        if not self.generation:
            return run, False
        self._save(run, replace(config, run=""))
        return run, True

    def predict(
        self, obs: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[Any, Any]:
        """Return (action, state) for one observation or a batch: see `Agent.predict`."""
        return self.agent.predict(obs, state, episode_start, deterministic)

    def evaluate(self, episodes: int = 20, **keys: Any) -> dict[str, Any]:
        """Return what `python -m es_rl.evaluate` prints: return_mean, return_std, length_mean, … of fresh episodes.

        `keys` are those of the verb: seed, backend.
        """
        wanted = build(EvaluateConfig, [(flat({"run": str(self.run or ""), "episodes": episodes, **keys}), "")])
        with as_in_workers():
            return measure(self.agent, self.config.env, wanted)

    def record(self, out: str | Path = "policy.mp4", **keys: Any) -> Path:
        """Film the policy, in a process of its own; return the path of the video.

        `keys` are those of `python -m es_rl.record`, such as seconds=12.0 and gif="policy.gif". Raises what the verb
        refuses, as the same kind of error.
        """
        wanted = build(RecordConfig, [(flat({"out": str(out), **keys}), "")])
        with self._saved() as run:
            film(self._of(run, wanted), run / "record.log")
        return Path(out)

    def export(self, out: str | Path) -> Path:
        """Write the policy as a file for programs without es_rl, .onnx, .pt2 or .npz; return its path.

        Beside it, a .json says what its numbers mean. Both are checked as `python -m es_rl.export` does.
        """
        with self._saved() as run, as_in_workers():
            export(self._of(run, ExportConfig(out=str(out))))
        return Path(out)

    def plot(self, x: str = "steps") -> Figure:
        """Draw returns, lengths, sigma, … against steps, generation, minutes or processor_hours."""
        from es_rl.plot import figure  # imports matplotlib
        from es_rl.plot.curves import RunRecords

        keys = flatten(tree_of(self.config), whole=open_keys(Config))
        return figure(RunRecords("the model", [*self._first, *self.history], keys), x=x)

    def save(self, path: str | Path) -> None:
        """Write the model as a run directory with one checkpoint, which `ES.load`, `es_rl.load` and all verbs read.

        An earlier save is replaced. Raises `ConfigError` if the path holds anything else.
        """
        target = Path(path)
        with self._saved(target.absolute().parent) as run:
            saving.put(run, target)

    def _save(self, run: Path, config: Config) -> None:
        saving.save(
            run, config, self._state, self._progress, about=self._about, history=[*self._first, *self.history],
            command=self._command,
        )  # fmt: skip

    @contextlib.contextmanager
    def _saved(self, beside: Path | None = None) -> Iterator[Path]:
        """Save the model in a temporary directory, and yield its path."""
        with saving.temporary(beside) as run:
            self._save(run, self.config)
            yield run

    def _of(self, run: Path, keys: Any) -> Any:
        """Return the keys of a verb for the model, saved as a run."""
        return replace(keys, run=str(run), env=self.config.env, policy=self.config.policy)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        env: str | Callable[..., Any] | None = None,
        policy: str | Callable[..., nn.Module] | None = None,
        **keys: Any,
    ) -> ES:
        """Return the model of a run directory, its newest checkpoint, or of what `save` wrote.

        The directory is only read: `learn` goes on in a new one, which begins with all that this one knows. An
        environment or a policy that came from Python, or as `module:Name`, must be given again: no file may name code.
        `keys` may change when a run goes on, such as workers, and `run`, the new directory. Raises `CheckpointError`.
        """
        if str(path).startswith("hf://"):
            raise ConfigError(f"{path}: a published policy can act, and cannot be trained. Load it by es_rl.load.")
        run, wanted = resumed([f"resume={path}"], Config)[0] or Path(path), dict.fromkeys(STOP_RULES) | flat(keys)
        place = str(wanted.pop("run", ""))
        saved = saved_keys(run, Config)
        again = again_given(saved, env, policy, wanted)
        config = resume_config(saved, wanted, str(run / CONFIG))
        model = cls.__new__(cls)
        model._origins = NOWHERE
        named = replace(config, env=again["env"] or config.env, policy=again["policy"] or config.policy, run=place)
        training = model._begin(named)
        loaded, model._state = saving.restored(run, training.state, config, model._about)
        model._progress = loaded.progress
        records = saving.history(run, loaded.generation)
        model._first, model.history = ([r for r in records if bool(r["generation"]) == late] for late in (False, True))
        model._command = f"es_rl.ES.load({str(path)!r})"
        return model

    def _show(self) -> None:
        """Write the present theta into the policy."""
        if self._agent is not None:
            self._agent.policy.load_state_dict({**self._state.theta, **self._state.buffers})
            self._agent.generation, self._agent.seconds = self.generation, self._progress.seconds
