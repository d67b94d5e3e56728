"""The cases of `benchmarks/when.py`: what is changed, on which task both are trained, and on which both are judged."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from when_tasks import BACKEND, FINER, PLAIN

from es_rl.envs.toys import recall
from es_rl.rl.presets import preset

OURS, PPO, RECURRENT = "es_rl", "ppo_fast", "recurrent_ppo"
ROUNDED = ("int8", "ternary")  # cases without a training of PPO: its network of the plain case is rounded
GAPS = (8, 32, 128)  # steps over which the memory cases ask to remember
NO_EVALUATION = "eval.every=0"  # no evaluations during training, since PPO has none either in its processor time


@dataclass(frozen=True)
class Case:
    """One row of the page."""

    name: str
    what: str  # the change in words, as in "HalfCheetah-v4 with …"
    env: str = PLAIN  # task to train on
    backend: str = "auto"
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    keys: tuple[str, ...] = ()  # further keys of es_rl.train
    against: str = PPO
    judged: tuple[str, str] = (PLAIN, "auto")  # task and backend on which both are judged
    episodes: int = 20  # episodes of the final judgement
    solved: float | None = None  # end a training early at this mean return

    @property
    def contenders(self) -> tuple[str, ...]:
        """The contenders that are trained."""
        return (OURS,) if self.name in ROUNDED else (OURS, self.against)


def _variant(name: str, what: str, env: str, *, episodes_judge: bool = False, **more: Any) -> Case:
    known = {**preset(PLAIN, {"es.segment": 0} if episodes_judge else {}), "eval.every": 0}  # as PPO: no evaluations
    keys = (f"{name}={'null' if value is None else value}" for name, value in known.items())
    return Case(name, what, env, BACKEND, keys=tuple(keys), **more)


def _memory(gap: int) -> Case:
    network = ("policy=transformer", "transformer.layers=1", "transformer.width=16", f"transformer.context={gap + 1}")
    strategy = ("es.noise=lowrank", "es.population=128", "es.episodes=4", "es.sigma=0.1", "optim.lr=0.03")
    looks = ("eval.every=5", "eval.episodes=100", f"target_return={recall.SOLVED}")
    return Case(
        f"memory{gap}",
        f"memory over {gap} steps",
        recall.ID,
        "auto",
        {"gap": gap},
        (*network, *strategy, *looks),
        against=RECURRENT,
        judged=(recall.ID, "auto"),
        episodes=100,
        solved=recall.SOLVED,
    )


ALL = (
    Case("plain", "nothing changed", keys=(NO_EVALUATION,)),
    _variant("late", "the reward paid only at the end of an episode", "es_rl/LateReward-v0", episodes_judge=True),
    _variant(
        "short",
        f"{FINER} times as many, {FINER} times shorter steps",
        "es_rl/ShortSteps-v0",
        judged=("es_rl/ShortSteps-v0", BACKEND),
    ),
    _variant("noise", "noise on the reward as large as the reward", "es_rl/NoisyReward-v0"),
    *(
        Case(kind, f"{kind} weights", keys=(f"linear.weights={kind}", f"mlp.weights={kind}", NO_EVALUATION))
        for kind in ROUNDED
    ),
    *(_memory(gap) for gap in GAPS),
)
CASES = {case.name: case for case in ALL}
