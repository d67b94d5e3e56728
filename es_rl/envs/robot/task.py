"""The declaration of a robot's task. Nothing is computed here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from es_rl.envs.curriculum import Curriculum

if TYPE_CHECKING:
    import mujoco

    from es_rl.envs.robot.world import World

# A function of all simulations at hand: (n,) or (n, k) numbers. Each row depends on that row only.
Term = Callable[["World"], NDArray[Any]]
Pose = Callable[["mujoco.MjModel", np.random.Generator], NDArray[Any]]  # returns qpos


@dataclass(frozen=True)
class Observe:
    """An observation term, and what happens to it: noise is added, then it is scaled and clipped."""

    term: Term
    noise: float = 0.0  # largest size of uniform noise, in the term's unit
    scale: float = 1.0
    clip: float = np.inf  # of the scaled value
    delay: int = 0  # steps after which it is seen
    history: int = 1  # values that are seen, the oldest first


@dataclass(frozen=True)
class Actions:
    """What actions in [−1, 1] do: the controls are those of a keyframe (or zero) + scale·action."""

    scale: float | Sequence[float] = 1.0  # in the actuators' unit: radians for positions, newton metres for torques
    about: str | None = None  # a keyframe of the model
    delay: int = 0  # steps after which an action has its effect


@dataclass(frozen=True)
class Start:
    """How an episode begins: at a keyframe (or the model's default pose), with uniform noise of these sizes."""

    keyframe: str | None = None  # its qpos; velocities and activations begin at 0
    joints: float = 0.0  # of hinges and slides, in radians or metres
    velocities: float = 0.0  # of all velocities
    place: float = 0.0  # of a free root's x and y, in metres
    turn: float = 0.0  # of a free root's heading, in radians
    pose: Pose | None = None  # draws qpos, in place of all but the velocities


@dataclass(frozen=True)
class Command:
    """Numbers that the robot is told, each drawn uniformly from its range and drawn again after some seconds."""

    ranges: Mapping[str, tuple[float, float]]
    seconds: float = 5.0
    still: float = 0.1  # share of the draws in which all numbers are 0


@dataclass(frozen=True)
class Vary:
    """A field of the model that differs between episodes, such as `geom_friction` or `body_mass`.

    The value is multiplied by, increased by, or set to a uniform number of the range.

        Vary("body_mass", 0.8, 1.2, along=[("body_inertia", None)])            # the same shape of other density
        Vary("actuator_gainprm", 0.9, 1.1, column=0, along=[("actuator_biasprm", 1)])      # a position servo's gain

    Without the field along it, the second one changes how far a servo turns, and not how stiff it is.
    """

    field: str
    low: float
    high: float
    how: str = "scale"  # scale, add or set
    names: str = "*"  # a pattern for the names of bodies, joints, geoms, … whose values vary
    column: int | None = None  # of fields with several numbers each; None: all of them
    together: bool = False  # one number for all, not one for each
    along: Sequence[tuple[str, int | None]] = ()  # further fields and columns, multiplied by the same numbers


@dataclass(frozen=True)
class Push:
    """A sudden change of a free root's horizontal velocity, in a random direction, at random times."""

    seconds: tuple[float, float] = (5.0, 10.0)  # between two pushes
    speed: float = 0.5  # in metres per second, at most


@dataclass(frozen=True)
class Ground:
    """Uneven ground: patches of some kinds, each from flat to difficult. An episode begins on one of them."""

    kinds: Sequence[str] = ("slope", "stairs", "waves", "blocks")  # flat too
    levels: int = 6  # patches of a kind, of growing difficulty
    side: float = 8.0  # of a patch, in metres
    cell: float = 0.1  # between two heights, in metres
    seed: int = 0  # other seeds are other ground


@dataclass(frozen=True, repr=False)  # it would be pages long, and libraries print it in their errors
class Task:
    """A robot's task. Observations, rewards and ends are terms by name."""

    model: str | Path | mujoco.MjModel  # a file, the text of one (MJCF), or a model
    observations: Mapping[str, Term | Observe]
    rewards: Mapping[str, tuple[float, Term]]  # weight for each second, and term (n,)
    ends: Mapping[str, Term] = field(default_factory=dict)  # (n,) true: the episode terminates
    metrics: Mapping[str, Term] = field(default_factory=dict)  # (n,) what is told beside them, and teaches nothing
    actions: Actions = Actions()
    start: Start = Start()
    command: Command | None = None
    varies: Sequence[Vary] = ()
    push: Push | None = None
    ground: Ground | None = None  # None: as the model has it
    curriculum: Curriculum | None = None  # None: episodes begin on any patch of the ground
    mark: Term | None = None  # (n, 3) a place in the world that pictures show as a ball, such as a target
    step_seconds: float = 0.02  # of an action; a multiple of the model's timestep
    seconds: float = 20.0  # of an episode

    @property
    def steps(self) -> int:
        """Steps of an episode."""
        return round(self.seconds / self.step_seconds)
