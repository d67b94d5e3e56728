"""Gymnasium's MuJoCo tasks for a batch of simulations: their observations, rewards and ends of episodes.

Shapes: n simulations of a call, O observation, A action, B bodies.

Each function follows the order of operations of Gymnasium's class, so that results are equal to the last bit. It uses
few operations, because it runs between two steps of physics, which empty the caches.

- `env` holds the attributes of an instance of Gymnasium's class (so every argument of its constructor counts), `dt`,
  `bodies` (their numbers by name), `wanted` (how many numbers of an observation are used) and the task's constants.
- `rows` holds the state and derived fields of the simulations, one row each; `motion` is qpos and qvel side by side.
- `actions` are float32, like Gymnasium's action spaces.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Rows = SimpleNamespace
Env = Any  # attributes of an unwrapped Gymnasium environment, dt, bodies, wanted, and the task's constants
PREFIX = "es_rl/"  # of the ids of the fast environments in Gymnasium's registry
Outcome = tuple[Array, Array]  # reward (n,), terminated (n,)


@dataclass(frozen=True)
class Task:
    """One environment id. `progress` is computed once per step; `outcome` gets its values before and after the step."""

    observe: Callable[[Rows, Env], Array]  # → (n, O); numbers beyond env.wanted may be missing
    outcome: Callable[[Rows, Env, Array, Array, Array], Outcome]  # (rows, env, before, now, actions)
    progress: Callable[[Rows, Env], Array] = lambda rows, env: rows.qpos[:, 0]
    fields: tuple[str, ...] = ()  # derived fields of MjData that the functions read
    contacts: Callable[[Env], bool] = lambda env: False  # whether cfrc_ext is read
    constants: Callable[[Env], dict[str, Array]] = lambda env: {}  # computed once, added to env


# ---------------------------------------------------------------- pieces


def _control_cost(env: Env, actions: Array) -> Array:
    return env._ctrl_cost_weight * _squares(actions)


def _forward(env: Env, before: Array, now: Array) -> Array:
    return env._forward_reward_weight * ((now - before) / env.dt)


def _squares(field: Array) -> Array:
    """Return the sum of squares of each simulation's field, added in the order in which NumPy sums a flat array."""
    return np.add.reduce(np.square(field.reshape(len(field), -1)), axis=1)


def _norm(vectors: Array) -> Array:
    """Return the Euclidean lengths of rows. vecdot uses the same dot product as np.linalg.norm does for one vector."""
    return np.sqrt(np.vecdot(vectors, vectors))


def _within(low: Any, values: Array, high: Any) -> Array:
    return (low < values) & (values < high)


def _paid_while_alive(env: Env, healthy: Array) -> Any:
    """Return v4's bonus: if unhealthy episodes end, paid on every step, the last included; otherwise while healthy."""
    return env._healthy_reward if env._terminate_when_unhealthy else healthy * env._healthy_reward


def _paid_while_healthy(env: Env, healthy: Array) -> Any:
    """Return v5's bonus: paid only while healthy."""
    return healthy * env._healthy_reward


def _ended(env: Env, healthy: Array) -> Array:
    return ~healthy if env._terminate_when_unhealthy else np.zeros(len(healthy), np.bool_)


def _motion(rows: Rows, env: Env, skip: int) -> Array:
    """Return positions and velocities. If `env` says so, leave out the first `skip` positions: the robot's place."""
    motion: Array = rows.motion[:, skip:] if env._exclude_current_positions_from_observation else rows.motion
    return motion


def _moving(skip: int, clip: float | None = None) -> Callable[[Rows, Env], Array]:
    def observe(rows: Rows, env: Env) -> Array:
        seen = _motion(rows, env, skip).copy()
        if clip is not None:
            velocity = seen[:, -rows.qvel.shape[1] :]
            np.minimum(np.maximum(velocity, -clip, out=velocity), clip, out=velocity)
        return seen

    return observe


def _never(rows: Rows) -> Array:
    return np.zeros(len(rows.qpos), np.bool_)


# ---------------------------------------------------------------- HalfCheetah, Swimmer


def _run(rows: Rows, env: Env, before: Array, now: Array, actions: Array) -> Outcome:
    return _forward(env, before, now) - _control_cost(env, actions), _never(rows)


# ---------------------------------------------------------------- Hopper, Walker2d


def _walker_ranges(env: Env) -> dict[str, Array]:
    """Return the bounds of height and angle, the second and third number of a motion."""
    ranges = np.array([env._healthy_z_range, env._healthy_angle_range], np.float64)
    return {"low": ranges[:, 0], "high": ranges[:, 1]}


def _hopper_ranges(env: Env) -> dict[str, Array]:
    """Return the walker's bounds, and apply the state range to the angle and all numbers after it."""
    low, high = _walker_ranges(env).values()
    first, last = env._healthy_state_range
    more = np.ones(env.model.nq + env.model.nv - 3)
    return {
        "low": np.concatenate([low[:1], [max(low[1], first)], first * more]),
        "high": np.concatenate([high[:1], [min(high[1], last)], last * more]),
    }


def _hop(bonus: Callable[[Env, Array], Any]) -> Callable[..., Outcome]:
    def outcome(rows: Rows, env: Env, before: Array, now: Array, actions: Array) -> Outcome:
        bounded = rows.motion[:, 1 : 1 + len(env.low)]
        healthy = np.logical_and.reduce(_within(env.low, bounded, env.high), axis=1)
        rewards = _forward(env, before, now) + bonus(env, healthy)
        return rewards - _control_cost(env, actions), _ended(env, healthy)

    return outcome


# ---------------------------------------------------------------- Ant


def _ant_healthy(rows: Rows, env: Env) -> Array:
    low, high = env._healthy_z_range
    finite = np.isfinite(rows.motion).all(axis=1)
    return finite & (low <= rows.qpos[:, 2]) & (rows.qpos[:, 2] <= high)


def _ant_contacts(rows: Rows, env: Env) -> Array:
    return np.clip(rows.cfrc_ext, *env._contact_force_range)


def _ant_contact_cost(rows: Rows, env: Env) -> Array:
    return env._contact_cost_weight * _squares(_ant_contacts(rows, env))


def _ant_x(rows: Rows, env: Env) -> Array:
    main = getattr(env, "_main_body", "torso")
    return rows.xpos[:, env.bodies.get(main, main), 0]


def _ant_v4_observe(rows: Rows, env: Env) -> Array:
    seen = [_motion(rows, env, 2)]
    if env._use_contact_forces:
        seen.append(_ant_contacts(rows, env).reshape(len(rows.qpos), -1))
    return np.concatenate(seen, axis=1)


def _ant_v5_observe(rows: Rows, env: Env) -> Array:
    seen = [_motion(rows, env, 2)]
    if env._include_cfrc_ext_in_observation:
        seen.append(_ant_contacts(rows, env)[:, 1:].reshape(len(rows.qpos), -1))
    return np.concatenate(seen, axis=1)


def _ant_v4(rows: Rows, env: Env, before: Array, now: Array, actions: Array) -> Outcome:
    healthy = _ant_healthy(rows, env)
    rewards = (now - before) / env.dt + _paid_while_alive(env, healthy)
    costs = _control_cost(env, actions)
    if env._use_contact_forces:
        costs = costs + _ant_contact_cost(rows, env)
    return rewards - costs, _ended(env, healthy)


def _ant_v5(rows: Rows, env: Env, before: Array, now: Array, actions: Array) -> Outcome:
    healthy = _ant_healthy(rows, env)
    forward = (now - before) / env.dt * env._forward_reward_weight
    costs = _control_cost(env, actions) + _ant_contact_cost(rows, env)
    return forward + _paid_while_healthy(env, healthy) - costs, _ended(env, healthy)


# ---------------------------------------------------------------- Humanoid, HumanoidStandup

_BODY_FIELDS = ("cinert", "cvel", "qfrc_actuator")


def _humanoid_x(rows: Rows, env: Env) -> Array:
    """Return x of the centre of mass, (n,)."""
    return np.einsum("b,nbj->nj", env.model.body_mass, rows.xipos)[:, 0] / env.model.body_mass.sum()


def _humanoid_healthy(rows: Rows, env: Env) -> Array:
    return _within(env._healthy_z_range[0], rows.qpos[:, 2], env._healthy_z_range[1])


def _humanoid_v4_observe(rows: Rows, env: Env) -> Array:
    exclude = getattr(env, "_exclude_current_positions_from_observation", True)  # HumanoidStandup-v4 always excludes
    motion = rows.motion[:, 2:] if exclude else rows.motion
    seen, n = [motion], len(motion)
    if env.wanted > motion.shape[1]:
        seen += [field.reshape(n, -1) for field in (rows.cinert, rows.cvel, rows.qfrc_actuator)]
    if _humanoid_v4_contacts(env):
        seen.append(rows.cfrc_ext.reshape(n, -1))
    return np.concatenate(seen, axis=1)


def _humanoid_v4_contacts(env: Env) -> bool:
    """Tell whether contact forces are read. Humanoid-v4 uses them only as the last part of an observation."""
    return bool(env.wanted > env.observation_space.shape[0] - env.data.cfrc_ext.size)


def _humanoid_v5_observe(rows: Rows, env: Env) -> Array:
    seen = [_motion(rows, env, 2)]
    for included, field in (
        (env._include_cinert_in_observation, rows.cinert[:, 1:]),
        (env._include_cvel_in_observation, rows.cvel[:, 1:]),
        (env._include_qfrc_actuator_in_observation, rows.qfrc_actuator[:, 6:]),
        (env._include_cfrc_ext_in_observation, rows.cfrc_ext[:, 1:]),
    ):
        if included is True:
            seen.append(field.reshape(len(rows.qpos), -1))
    return np.concatenate(seen, axis=1)


def _humanoid_v4(rows: Rows, env: Env, before: Array, now: Array, actions: Array) -> Outcome:
    healthy = _humanoid_healthy(rows, env)
    forward = _forward(env, before, now)
    reward = forward + _paid_while_alive(env, healthy) - env._ctrl_cost_weight * _squares(rows.ctrl)
    return reward, _ended(env, healthy)


def _humanoid_v5(rows: Rows, env: Env, before: Array, now: Array, actions: Array) -> Outcome:
    healthy = _humanoid_healthy(rows, env)
    forward = _forward(env, before, now)
    contact = np.clip(env._contact_cost_weight * _squares(rows.cfrc_ext), *env._contact_cost_range)
    costs = env._ctrl_cost_weight * _squares(rows.ctrl) + contact
    return forward + _paid_while_healthy(env, healthy) - costs, _ended(env, healthy)


def _standup(rows: Rows, height: Array, control: float, impact: float, limits: tuple[float, float]) -> Outcome:
    hit = np.clip(impact * _squares(rows.cfrc_ext), *limits)
    return height - control * _squares(rows.ctrl) - hit + 1, _never(rows)


def _standup_v4(rows: Rows, env: Env, before: Array, now: Array, actions: Array) -> Outcome:
    return _standup(rows, rows.qpos[:, 2] / env.model.opt.timestep, 0.1, 0.5e-6, (-np.inf, 10.0))


def _standup_v5(rows: Rows, env: Env, before: Array, now: Array, actions: Array) -> Outcome:
    height = rows.qpos[:, 2] / env.model.opt.timestep
    return _standup(rows, height, env._ctrl_cost_weight, env._impact_cost_weight, env._impact_cost_range)


# ---------------------------------------------------------------- pendulums


def _pendulum_observe(rows: Rows, env: Env) -> Array:
    motion: Array = rows.motion.copy()
    return motion


def _pendulum_fell(rows: Rows, env: Env) -> Array:
    return ~np.isfinite(rows.motion).all(axis=1) | (np.abs(rows.qpos[:, 1]) > 0.2)


def _pendulum_v4(rows: Rows, env: Env, before: Array, now: Array, actions: Array) -> Outcome:
    return np.ones(len(rows.qpos)), _pendulum_fell(rows, env)


def _pendulum_v5(rows: Rows, env: Env, before: Array, now: Array, actions: Array) -> Outcome:
    fell = _pendulum_fell(rows, env)
    return (~fell).astype(np.float64), fell


def _double_observe(constraints: int) -> Callable[[Rows, Env], Array]:
    def observe(rows: Rows, env: Env) -> Array:
        angles = np.ascontiguousarray(rows.qpos[:, 1:])
        parts = [rows.qpos[:, :1], np.sin(angles), np.cos(angles), np.clip(rows.qvel, -10, 10)]
        return np.concatenate([*parts, np.clip(rows.qfrc_constraint, -10, 10)[:, :constraints]], axis=1)

    return observe


def _squared(values: Array) -> Array:
    """Return x**2 as Python's and NumPy's scalars compute it: with the C library's pow, not by multiplication."""
    return np.array([value**2 for value in values.tolist()])


def _double(paid_at_the_end: bool) -> Callable[..., Outcome]:
    def outcome(rows: Rows, env: Env, before: Array, now: Array, actions: Array) -> Outcome:
        x, y = rows.site_xpos[:, 0, 0], rows.site_xpos[:, 0, 2]
        fell = y <= 1
        distance = 0.01 * _squared(x) + _squared(y - 2)
        velocity = 1e-3 * _squared(rows.qvel[:, 1]) + 5e-3 * _squared(rows.qvel[:, 2])
        alive = 10.0 if paid_at_the_end else env._healthy_reward * ~fell
        return alive - distance - velocity, fell

    return outcome


# ---------------------------------------------------------------- Reacher, Pusher


def _between(rows: Rows, env: Env, one: str, other: str) -> Array:
    """Return the vector from body `other` to body `one`, (n, 3)."""
    return rows.xpos[:, env.bodies[one]] - rows.xpos[:, env.bodies[other]]


def _reach(rows: Rows, env: Env) -> Array:
    return _between(rows, env, "fingertip", "target")


def _reacher_observe(dimensions: int) -> Callable[[Rows, Env], Array]:
    def observe(rows: Rows, env: Env) -> Array:
        theta = np.ascontiguousarray(rows.qpos[:, :2])
        parts = [np.cos(theta), np.sin(theta), rows.qpos[:, 2:], rows.qvel[:, :2]]
        return np.concatenate([*parts, _reach(rows, env)[:, :dimensions]], axis=1)

    return observe


def _reacher_v4(rows: Rows, env: Env, before: Array, now: Array, actions: Array) -> Outcome:
    """Reward the distance before the step, not after it."""
    return -_norm(before) + -np.square(actions).sum(axis=1), _never(rows)


def _reacher_v5(rows: Rows, env: Env, before: Array, now: Array, actions: Array) -> Outcome:
    distance = -_norm(now) * env._reward_dist_weight
    return distance + -np.square(actions).sum(axis=1) * env._reward_control_weight, _never(rows)


def _pusher_observe(rows: Rows, env: Env) -> Array:
    bodies = [rows.xpos[:, env.bodies[name]] for name in ("tips_arm", "object", "goal")]
    return np.concatenate([rows.qpos[:, :7], rows.qvel[:, :7], *bodies], axis=1)


def _pusher(rows: Rows, env: Env, before: Array, now: Array, actions: Array) -> Outcome:
    near = -_norm(_between(rows, env, "object", "tips_arm")) * env._reward_near_weight
    distance = -_norm(_between(rows, env, "object", "goal")) * env._reward_dist_weight
    control = -np.square(actions).sum(axis=1) * env._reward_control_weight
    return distance + control + near, _never(rows)


_ALWAYS: Callable[[Env], bool] = lambda env: True  # noqa: E731

TASKS: dict[str, Task] = {
    "Ant-v4": Task(_ant_v4_observe, _ant_v4, _ant_x, ("xpos",), lambda env: env._use_contact_forces),
    "Ant-v5": Task(_ant_v5_observe, _ant_v5, _ant_x, ("xpos",), _ALWAYS),
    "HalfCheetah-v4": Task(_moving(1), _run),
    "HalfCheetah-v5": Task(_moving(1), _run),
    "Hopper-v4": Task(_moving(1, clip=10), _hop(_paid_while_alive), constants=_hopper_ranges),
    "Hopper-v5": Task(_moving(1, clip=10), _hop(_paid_while_healthy), constants=_hopper_ranges),
    "Humanoid-v4": Task(
        _humanoid_v4_observe, _humanoid_v4, _humanoid_x, (*_BODY_FIELDS, "xipos"), _humanoid_v4_contacts
    ),
    "Humanoid-v5": Task(_humanoid_v5_observe, _humanoid_v5, _humanoid_x, (*_BODY_FIELDS, "xipos"), _ALWAYS),
    "HumanoidStandup-v4": Task(_humanoid_v4_observe, _standup_v4, fields=_BODY_FIELDS, contacts=_ALWAYS),
    "HumanoidStandup-v5": Task(_humanoid_v5_observe, _standup_v5, fields=_BODY_FIELDS, contacts=_ALWAYS),
    "InvertedDoublePendulum-v4": Task(_double_observe(3), _double(True), fields=("site_xpos", "qfrc_constraint")),
    "InvertedDoublePendulum-v5": Task(_double_observe(1), _double(False), fields=("site_xpos", "qfrc_constraint")),
    "InvertedPendulum-v4": Task(_pendulum_observe, _pendulum_v4),
    "InvertedPendulum-v5": Task(_pendulum_observe, _pendulum_v5),
    "Pusher-v5": Task(_pusher_observe, _pusher, fields=("xpos",)),
    "Reacher-v4": Task(_reacher_observe(3), _reacher_v4, _reach, ("xpos",)),
    "Reacher-v5": Task(_reacher_observe(2), _reacher_v5, _reach, ("xpos",)),
    "Swimmer-v4": Task(_moving(2), _run),
    "Swimmer-v5": Task(_moving(2), _run),
    "Walker2d-v4": Task(_moving(1, clip=10), _hop(_paid_while_alive), constants=_walker_ranges),
    "Walker2d-v5": Task(_moving(1, clip=10), _hop(_paid_while_healthy), constants=_walker_ranges),
}


def register() -> None:
    """Register "es_rl/ID": `gymnasium.make_vec` then makes the fast environment, `gymnasium.make` Gymnasium's own."""
    for name in TASKS:
        spec = gymnasium.spec(name)
        gymnasium.register(
            PREFIX + name,
            entry_point=spec.entry_point,
            vector_entry_point=f"es_rl.envs.gymnasium_vector:{name.replace('-', '_')}",
            max_episode_steps=spec.max_episode_steps,
            reward_threshold=spec.reward_threshold,
            kwargs=spec.kwargs,
        )
