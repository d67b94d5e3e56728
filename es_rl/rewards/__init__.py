"""Rewards of generated text: `reward(prompts, completions, **columns) → a number, or None, for each completion`.

The signature is that of TRL; an async function is awaited. A completion is a string, or a list of one message if the
prompt is chat messages. The columns of the data set are keyword arguments. None and NaN mean that a completion could
not be judged.

To add a reward, write a function and add one line to `REWARDS`. Other rewards are given as module:function.
"""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from es_rl import plugins
from es_rl.errors import FOREIGN, EnvError, nearest
from es_rl.rewards import countdown as game

Reward = Callable[..., Sequence[float | None]]
WeightedRewards = list[tuple[float, Reward]]  # weight and reward
FORMAT = re.compile(r"\s*<think>.*?</think>\s*<answer>([^<]*)</answer>\s*", re.DOTALL)
ANSWER = re.compile(r"<answer>([^<]*)</answer>")


def text(completion: Any) -> str:
    """Return the text of a completion, a string or chat messages."""
    return completion if isinstance(completion, str) else str(completion[-1]["content"])


def countdown(completions: Sequence[Any], numbers: Sequence[Any], target: Sequence[Any], **_: Any) -> list[float]:
    """Return 1 for a correct <answer>…</answer>, plus 0.1 for the form <think>…</think><answer>…</answer>.

    An answer is correct if it uses exactly the numbers and equals the target; the last one counts (Qiu et al. 2025,
    arXiv 2509.24372, section 4).
    """
    result = []
    for said, given, wanted in zip(map(text, completions), numbers, target, strict=True):
        answers = ANSWER.findall(said)
        right = bool(answers) and game.solves(answers[-1], [int(n) for n in given], int(wanted))
        result.append(float(right) + 0.1 * bool(FORMAT.fullmatch(said)))
    return result


def conciseness(completions: Sequence[Any], answer: Sequence[Any], **_: Any) -> list[float]:
    """Return −|length − length of the reference `answer`|, in characters (Qiu et al. 2025, section 5)."""
    return [-float(abs(len(text(said)) - len(str(short)))) for said, short in zip(completions, answer, strict=True)]


def exact_match(completions: Sequence[Any], answer: Sequence[Any], **_: Any) -> list[float]:
    """Return 1 if the completion equals `answer`, but for case, extra white space and full stops at the end; else 0."""
    return [float(_plain(text(said)) == _plain(str(wanted))) for said, wanted in zip(completions, answer, strict=True)]


def _plain(said: str) -> str:
    return " ".join(said.lower().split()).rstrip(".")


REWARDS: dict[str, Reward] = {"countdown": countdown, "conciseness": conciseness, "exact_match": exact_match}


def load(name: str) -> Reward:
    """Return the reward of this name, or import the function of `module:function`. Raises `EnvError`."""
    if name in REWARDS:
        return REWARDS[name]
    module, function = _split(name)
    try:
        found: Any = plugins.load(module)
    except FOREIGN as error:
        said = " ".join(str(error).split())
        raise EnvError(f"reward={name}: {module} cannot be imported: {type(error).__name__}: {said}.") from error
    if not callable(getattr(found, function, None)):
        raise EnvError(f"reward={name}: {module} has no function {function}.")
    reward: Reward = getattr(found, function)
    return reward


def _split(name: str) -> tuple[str, str]:
    module, colon, function = name.partition(":")
    if not colon or not module or not function:
        raise EnvError(
            f"reward={name}: must be one of {', '.join(REWARDS)}, or module:function, such as my_rewards:politeness."
            + nearest(name, REWARDS)
        )
    return module, function


def parse(expression: str) -> WeightedRewards:
    """Load the rewards of an expression such as `exact_match+0.01*conciseness`. Raises `EnvError`."""
    return [(weight, load(name)) for weight, name in weights(expression)]


def weights(expression: str) -> list[tuple[float, str]]:
    """Return the weights and names in such an expression. Imports no module. Raises `EnvError`."""
    terms = []
    for term in expression.split("+"):
        weight, star, name = term.rpartition("*")
        try:
            number = float(weight) if star else 1.0
        except ValueError:
            number = float("nan")
        if not np.isfinite(number):
            raise EnvError(f"reward={expression}: {weight} is not a number. Write weight*name, joined by +.")
        if name.strip() not in REWARDS:
            _split(name.strip())
        terms.append((number, name.strip()))
    return terms


def total(
    terms: WeightedRewards, prompts: Sequence[Any], completions: Sequence[Any], columns: Mapping[str, Any]
) -> NDArray[np.float64]:
    """Return the weighted sum of the rewards of each completion, (n,).

    Rewards that are NaN are left out; the sum is NaN if all are. Raises what a reward raises.
    """
    each = np.stack([weight * score(reward, prompts, completions, columns) for weight, reward in terms])  # (k, n)
    return np.where(np.isnan(each).all(axis=0), np.nan, np.nansum(each, axis=0))


async def _awaited(given: Awaitable[Any]) -> Any:
    return await given


def one_by_one(
    score_of: Callable[[int], float], n: int, beat: Callable[[int], None]
) -> tuple[NDArray[np.float64], list[Exception]]:
    """Score n completions, each by itself. Return the scores, NaN where the reward raises, and the errors."""
    scores, errors = np.full(n, np.nan), list[Exception]()
    for i in range(n):
        beat(0)  # each has the whole time
        try:
            scores[i] = score_of(i)
        except Exception as error:  # noqa: BLE001 - foreign code, any error: this one could not be judged
            errors.append(error)
    return scores, errors


def score(
    reward: Reward, prompts: Sequence[Any], completions: Sequence[Any], columns: Mapping[str, Any]
) -> NDArray[np.float64]:
    """Return the rewards as numbers, (n,), NaN for None. Raises `EnvError` unless there is one for each completion."""
    with plugins.their_settings():
        given: Any = reward(prompts=list(prompts), completions=list(completions), **columns)
        if inspect.isawaitable(given):
            given = asyncio.run(_awaited(given))
    if given is None:
        raise EnvError("the reward returned nothing: it must return a number for each completion")
    values = np.array([np.nan if value is None else float(value) for value in given])
    if len(values) != len(completions):
        raise EnvError(f"the reward returned {len(values)} numbers for {len(completions)} completions")
    return values
