"""Every metric of a run: its meaning, its unit, and its tag in TensorBoard and in trackers.

`metrics.jsonl` has the metrics by their names. Viewers draw a card for each tag, and group cards by the part before the
first slash. So metrics that would be alone in their group have a tag in another one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from es_rl.run.terms import RETURN, RunTerms


@dataclass(frozen=True)
class Metric:
    """What a metric means."""

    meaning: str
    unit: str = ""  # "" for a pure number
    tag: str = ""  # in TensorBoard and in trackers; "" if it is the name


REWARD, STEPS, SECONDS, SHARE, BITS = "reward", "steps", "s", "share", "bits per byte"
# Name → what it is. A name that ends in /* stands for all names that begin so; its tag is what these begin with.
METRICS = {
    "eval/return_mean": Metric("mean return of the unperturbed policy over the evaluation episodes", REWARD),
    "eval/return_std": Metric("standard deviation of the return over the evaluation episodes", REWARD),
    "eval/return_best": Metric("best eval/return_mean so far", REWARD),
    "eval/length_mean": Metric("mean length of the evaluation episodes, or completions", "steps or tokens"),
    "eval/failed": Metric("evaluation episodes, or completions, that failed; they are left out of the means"),
    "eval/reward/*": Metric("term of the reward with its weight, of the unperturbed policy", "reward/s"),
    "eval/ends/*": Metric("share of the evaluation episodes that this ended", SHARE),
    "eval/metric/*": Metric("mean of a term that is told only, of the unperturbed policy"),
    "eval/bits_per_byte": Metric("of theta on held-out sequences; lower is better", BITS),
    "eval/bits_per_byte_best": Metric("lowest eval/bits_per_byte so far", BITS),
    "eval/reward_mean": Metric("mean reward of what theta writes", REWARD),
    "eval/reward_std": Metric("standard deviation of the reward of what theta writes", REWARD),
    "eval/reward_best": Metric("best eval/reward_mean so far", REWARD),
    "fitness/mean": Metric("mean fitness of the members that did not fail", REWARD),
    "fitness/max": Metric("fitness of the best member", REWARD),
    "fitness/min": Metric("fitness of the worst member that did not fail", REWARD),
    "fitness/std": Metric("standard deviation of the fitness over members", REWARD),
    "members": Metric("members of the generation", tag="members/count"),
    "members/failed": Metric("members whose environment or reward raised, hung or gave a number that is not finite"),
    "return/mean": Metric("mean return of the members' episodes", REWARD, "members/return_mean"),
    "length/mean": Metric("mean length of the members' episodes, or completions", "steps or tokens",
                          "members/length_mean"),
    "reward/*": Metric("term of the reward with its weight, of the members", "reward/s", "members/reward/*"),
    "ends/*": Metric("share of the members' episodes that this ended", SHARE, "members/ends/*"),
    "metric/*": Metric("mean of a term that is told only, of the members", tag="members/metric/*"),
    "curriculum/difficulty": Metric("difficulty at which episodes begin, from 0 to 1", tag="members/difficulty"),
    "update/norm": Metric("length of the step of theta"),
    "update/effective_rank": Metric("number of directions that share the step; mean over the matrices"),
    "gradient/norm": Metric("length of the estimate that the optimiser gets", tag="update/gradient_norm"),
    "gradient/agreement": Metric("cosine between the estimates of two halves of the population",
                                 tag="update/gradient_agreement"),
    "kl": Metric("distance of theta from the starting model", "nats per token", "update/kl"),
    "steps/clipped": Metric("share of the recorded steps whose score is limited (credit.clip)", SHARE),
    "steps/terminated": Metric("share of the segments in which the agent fell", SHARE),
    "critic/explained_variance": Metric("1: the critic predicts perfectly; 0: no better than the mean",
                                        tag="steps/explained_variance"),
    "explore/std": Metric("standard deviation of the noise on the policy's outputs, mean over outputs",
                          tag="steps/explore_std"),
    "baseline/unigram": Metric("of counting bytes, on the same sequences", BITS, "eval/baseline_unigram"),
    "baseline/bigram": Metric("of counting pairs of bytes, on the same sequences", BITS, "eval/baseline_bigram"),
    "baseline/gzip": Metric("of gzip, on the same sequences", BITS, "eval/baseline_gzip"),
    "baseline/start": Metric("mean reward of the starting model on the same prompts", REWARD, "eval/baseline_start"),
    "time/steps_per_second": Metric("environment steps of the members by the seconds of the generation", "1/s"),
    "time/tokens_per_second": Metric("tokens of the members by the seconds of the generation", "1/s"),
    "time/rollout": Metric("time that the members took", SECONDS),
    "time/members": Metric("time that completions and rewards of the members took", SECONDS),
    "time/update": Metric("time that the update took", SECONDS),
    "time/evaluate": Metric("time that the evaluation took", SECONDS),
    "time/utilisation": Metric("share of their time in which workers had something to do", SHARE),
    "time/simulating": Metric("share of their time that workers spent inside the simulator", SHARE),
    "time/processor_seconds": Metric("processor time of all processes since the generation before", SECONDS),
    "cluster/nodes": Metric("machines on which workers are"),
    "cluster/actors": Metric("workers that have begun"),
    "cluster/utilisation": Metric("share of the time since the generation before in which workers had jobs", SHARE),
    "cluster/lost": Metric("workers lost since the generation before"),
    "cluster/repeated": Metric("jobs that were run again because their worker was lost"),
    "cluster/twice": Metric("jobs given to a second worker because they took far longer than others"),
    "cluster/bytes_out": Metric("sent to workers since the generation before; what they share counts once a machine",
                                "bytes"),
    "cluster/bytes_in": Metric("received from workers since the generation before", "bytes"),
    "seconds": Metric("time of training so far, over all sittings", SECONDS, "time/seconds"),
    "generation": Metric("generations so far", tag="time/generation"),
    "env_steps": Metric("environment steps of all members so far: the horizontal axis"),
    "tokens": Metric("tokens of all members so far: the horizontal axis"),
}  # fmt: skip
# Names that dashboards made for other libraries look for, in runs of agents: alias → the metric that it is.
ALIASES = {
    "rollout/ep_rew_mean": "return/mean",
    "rollout/ep_len_mean": "length/mean",
    "eval/mean_reward": "eval/return_mean",
    "eval/mean_ep_length": "eval/length_mean",
    "time/fps": "time/steps_per_second",
    "time/total_timesteps": "env_steps",
}


def known(name: str) -> tuple[str, Metric]:
    """Return the entry of `METRICS` for a name: its key and what it is. A metric of somebody's own means nothing."""
    if name in METRICS:
        return name, METRICS[name]
    opened = next((key for key in METRICS if key.endswith("/*") and name.startswith(key[:-1])), None)
    return (opened, METRICS[opened]) if opened else (name, Metric(""))


@cache
def tag_of(name: str) -> str:
    """Return the tag of a metric."""
    key, metric = known(name)
    return metric.tag.removesuffix("*") + name[len(key) - 1 :] if metric.tag.endswith("*") else metric.tag or name


@cache
def aliases_of(name: str, steps: str) -> tuple[str, ...]:
    """Return the aliases of a metric, in runs that count these steps."""
    return tuple(alias for alias, of in ALIASES.items() if of == name) if steps == RETURN.steps else ()


def description(name: str, tag: str) -> str:
    """Return what the curve of a metric means, its unit and, if its tag is another one, its name in `metrics.jsonl`."""
    metric = known(name)[1]
    told = [metric.meaning, f"unit: {metric.unit}" if metric.unit else ""]
    return "; ".join(part for part in (*told, f"metrics.jsonl: {name}" if tag != name else "") if part)


def numbers(record: Mapping[str, Any], terms: RunTerms, members: int | None) -> Iterator[tuple[str, float]]:
    """Yield the metrics of a record that can be drawn, without the axis, and the number of members if there are any."""
    if "members" not in record and members is not None:
        yield "members", members
    for name, value in record.items():
        if name != terms.steps and isinstance(value, (int, float)) and math.isfinite(value):
            yield name, value
