"""Train a byte-level GPT on a text by evolution strategies: no gradient, any score.

    python -m es_rl.text corpus=FILE minutes=15
    python -m es_rl.text corpus=FILE model=RUN minutes=15            # goes on from a trained one, as a new run
    python -m es_rl.text corpus=FILE reward=my_rewards:politeness    # a score of generated text in place of the loss
    python -m es_rl.text corpus=FILE baseline=adamw minutes=15       # the same net by backpropagation, to compare

All members of a generation see the same sequences and run through one forward pass a chunk. The composition root of
this kind of training; `es_rl.loop` does the rest.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from es_rl import checkpoint as checkpoints
from es_rl import cli, es, loop, optim, rewards, rundir
from es_rl.config import (
    DEFAULT_MINUTES,
    CheckpointConfig,
    EsConfig,
    OptimConfig,
    check_pairs,
    default_chunk,
    going_on,
    refuse_episodic,
)
from es_rl.corpus import Bytes, Corpus, baselines, read, sequences
from es_rl.errors import CheckpointError, ConfigError, TrainingError, lookup
from es_rl.es import ESParams, ESState, Evaluation
from es_rl.gpt import Gpt, bits, generate
from es_rl.keys import build, group, help_text, key, pairs
from es_rl.loop import Prepared, Run, Stepped
from es_rl.noise import KINDS
from es_rl.optim import OPTIMIZERS
from es_rl.population import Generation, perturb
from es_rl.processes import available_processors, use_one_thread
from es_rl.rng import MAX_SEED, integer_seed, stream
from es_rl.runlog import Terms
from es_rl.shaping import SHAPINGS
from es_rl.workers import Failed, Workers

USAGE = """python -m es_rl.text corpus=FILE [key=value …]   train a byte-level GPT
python -m es_rl.text resume=RUN [key=value …]    go on with a run; stop rules may change

Other defaults than those below: es.noise=lowrank es.population=256 es.sigma=0.02 optim.lr=0.01; with baseline=adamw
batch=8 optim.name=adamw optim.lr=0.001 eval.every=250 checkpoint.every=1000; a generation is one step on one batch."""
DEFAULTS = {"es.noise": "lowrank", "es.population": 256, "es.sigma": 0.02, "optim.lr": 0.01}
# A step takes the time of a member's, and an evaluation that of ten steps.
ADAMW = {"batch": 8, "optim.name": "adamw", "optim.lr": 0.001, "eval.every": 250, "checkpoint.every": 1000}
TOKENS_AT_ONCE = 65_536  # in one forward pass of a chunk, so that memory does not grow with the population
EVALUATION_ROWS = 16  # sequences of one job of an evaluation
PROMPT = b"\n"


@dataclass(frozen=True)
class GptConfig:
    layers: int = key(2, "blocks of attention and perceptron", low=1)
    heads: int = key(4, "of each attention", low=1)
    width: int = key(64, "numbers of a token; a multiple of heads", low=1)


@dataclass(frozen=True)
class TextEvalConfig:
    every: int = key(10, "generations between evaluations; 0: only at the end", low=0)
    bytes: int = key(16_384, "held-out bytes of an evaluation, at most", low=1)
    sample: int = key(200, "bytes of text shown with each evaluation", low=0)


@dataclass(frozen=True)
class TextConfig:
    corpus: str = key("", "a file; its last tenth is held out")
    model: str = key("", "the run of a trained GPT to start from; default: from scratch")
    ctx: int = key(128, "bytes of a sequence", low=2)
    batch: int = key(2, "sequences of a generation, the same for all members", low=1)
    gpt: GptConfig = group(GptConfig, "the network")
    reward: str = key(
        "", "module:function that scores generated text, (prompts, completions) → numbers; default: the loss"
    )
    baseline: str = key("", "adamw: train by backpropagation instead, to compare", choices=("", "adamw"))
    es: EsConfig = group(EsConfig, "the evolution strategy")
    optim: OptimConfig = group(OptimConfig, "the optimiser")
    generations: int | None = key(None, "stop after so many generations", low=1)
    tokens: int | None = key(None, "stop after so many bytes, of all members", low=1)
    minutes: float | None = key(None, "stop after so many minutes of training; 60 if no rule is given", above=0)
    target_bits: float | None = key(None, "stop when eval/bits_per_byte reaches this")
    target_reward: float | None = key(None, "stop when eval/reward_mean reaches this")
    seed: int = key(0, "names every random number of the run", low=0, high=MAX_SEED)
    workers: int | None = key(None, "worker processes; 0: all in this one; default: the processors at hand", low=0)
    chunk: int | None = key(None, "members of one forward pass, an even number; default: from the other keys", low=2)
    hang_after: float = key(300.0, "seconds without a finished chunk after which a worker is replaced", above=0)
    run: str = key("", "the run's directory; default: runs/text/TIME-gpt")
    eval: TextEvalConfig = group(TextEvalConfig, "evaluation of theta on what is held out")
    checkpoint: CheckpointConfig = group(CheckpointConfig, "checkpoints")


def main(argv: Sequence[str]) -> int:
    """The verb; returns the exit code."""
    if cli.asks_for_help(argv):
        return cli.show(help_text(TextConfig, USAGE))
    resumed, keys = rundir.resumed(argv)
    if resumed:
        config = going_on(TextConfig, rundir.saved_config(resumed), keys, str(resumed / "config.yaml"), "reward")
    else:
        given = pairs(argv)
        refuse_episodic(given, "es.")
        config = build(TextConfig, [(ADAMW if given.get("baseline") else DEFAULTS, ""), (given, "")])
    config = _resolve(config)
    corpus = read(config.corpus, config.ctx)
    if config.reward:
        rewards.load(config.reward)
    use_one_thread()
    model = _model(config, "" if resumed else config.model)
    run = resumed or rundir.create(config.run, "text", config.baseline or "gpt")
    prepare = partial(_prepare, config, corpus, model)
    title = f"es_rl: {config.corpus} → {run}"
    count = available_processors() if config.workers is None else config.workers
    return loop.run(
        Run(config, run, prepare, "text", argv, title, workers=count, resumed=bool(resumed), terms=_terms(config))
    )


def _terms(config: TextConfig) -> Terms:
    """Bits per byte, lower is better; or the reward."""
    if config.reward:
        return Terms("tokens", "tokens", "eval/reward_mean", "eval/reward_std", "eval/reward_best", "target_reward", 1)
    bits = "eval/bits_per_byte"
    return Terms("tokens", "tokens", bits, "", f"{bits}_best", "target_bits", -1)


def _prepare(
    config: TextConfig, corpus: Corpus, model: nn.Module, workers: Workers, say: Callable[[str], None]
) -> Prepared:
    task, state = TextTask(config, corpus, workers), es.init(model)
    known = task.known
    sizes = f"{len(corpus.train):,} bytes to train on, {len(corpus.held_out):,} held out"
    counted = ", ".join(f"{name.partition('/')[2]} {value:.3f}" for name, value in known.items())
    say(f"{sizes}; bits per byte without learning, of {task.rows * config.ctx:,} of them: {counted}")
    about = {"corpus": corpus.digest(), "ctx": config.ctx, "gpt": asdict(config.gpt)}
    parameters = sum(value.numel() for value in model.parameters())
    heading = (
        f"GPT of {parameters:,} parameters, {config.es.population} members in chunks of {config.chunk}, "
        f"{config.batch} sequences of {config.ctx} bytes, {workers.count or 'no'} workers"
    )
    if config.baseline:
        heading = f"GPT of {parameters:,} parameters by backpropagation and AdamW, {config.batch} sequences a step"
        return Prepared(task, state, about, heading, step=Backpropagation(config, corpus, model))
    return Prepared(task, state, about, heading)


def _model(config: TextConfig, parent: str) -> nn.Module:
    """A fresh network, or that of another run. Raises `CheckpointError` if it does not fit, `ConfigError`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(integer_seed(config.seed, "policy"))
        model = Gpt(**asdict(config.gpt), ctx=config.ctx)
    model.requires_grad_(False).eval()
    if parent:
        path = Path(parent)
        if rundir.saved_config(path).get("seed") == config.seed:
            raise ConfigError(
                f"seed={config.seed}: is that of model={path}, so the same sequences and noise would come again. "
                f"Give another seed."
            )
        loaded = checkpoints.load(path)
        if (loaded.about.get("gpt"), loaded.about.get("ctx")) != (asdict(config.gpt), config.ctx):
            raise CheckpointError(
                f"model={path}: is of gpt={loaded.about.get('gpt')}, ctx={loaded.about.get('ctx')}. "
                f"Give these keys too."
            )
        state = loaded.state(es.init(model))
        model.load_state_dict({**state.theta, **state.buffers})
    return model


def _resolve(config: TextConfig) -> TextConfig:
    """Rules between keys, and the defaults that follow from other keys. Raises `ConfigError`."""
    if not config.corpus:
        raise ConfigError("corpus is missing: give a text file, such as corpus=shakespeare.txt.")
    check_pairs(config.es, "es.")
    lookup(KINDS, config.es.noise, "es.noise")
    lookup(SHAPINGS, config.es.shaping, "es.shaping")
    lookup(OPTIMIZERS, config.optim.name, "optim.name")
    if config.baseline and config.optim.name != config.baseline:
        raise ConfigError(f"optim.name={config.optim.name}: baseline={config.baseline} is itself the optimiser.")
    if config.reward and config.target_bits is not None:
        raise ConfigError("target_bits: with a reward, bits per byte are not measured. Give target_reward.")
    if not config.reward and config.target_reward is not None:
        raise ConfigError("target_reward: needs a reward. Give reward=module:function, or target_bits.")
    if config.gpt.width % config.gpt.heads:
        raise ConfigError(f"gpt.width={config.gpt.width}: must be a multiple of gpt.heads={config.gpt.heads}.")
    most = max(2, TOKENS_AT_ONCE // (config.batch * config.ctx))
    chunk = min(default_chunk(config.es.population, 1), most - most % 2) if config.chunk is None else config.chunk
    if chunk % 2:
        raise ConfigError(f"chunk={chunk}: must be even, both members of a pair see the same bytes together.")
    rules = (config.generations, config.tokens, config.minutes, config.target_bits, config.target_reward)
    minutes = DEFAULT_MINUTES if all(rule is None for rule in rules) else config.minutes
    return replace(config, chunk=min(chunk, config.es.population), minutes=minutes)


@dataclass(frozen=True)
class Job:
    """Members, or rows of the held-out part."""

    kind: str  # "members" or "evaluation"
    items: range


class Judge:
    """Scores members on a generation's sequences, and theta on held-out ones, in one process."""

    def __init__(self, config: TextConfig) -> None:
        self._config = config
        self._corpus: Corpus | None = None
        self._model: nn.Module | None = None
        self._shared: Generation | None = None

    def __call__(self, shared: Generation, job: Job, beat: Callable[[int], None]) -> NDArray[np.float64]:
        if self._corpus is None or self._model is None:
            self._corpus = read(self._config.corpus, self._config.ctx)
            self._model = Gpt(**asdict(self._config.gpt), ctx=self._config.ctx).requires_grad_(False).eval()
        if shared is not self._shared:
            self._model.load_state_dict({name: torch.from_numpy(value) for name, value in shared.model.items()})
            self._shared = shared
        score = self._reward if self._config.reward else self._loss
        if job.kind == "evaluation":
            starts = _places(self._config, self._corpus)[job.items.start : job.items.stop]
            return score(self._corpus.held_out, starts, 1, beat)
        starts = _starts(self._config, self._corpus, shared.number)
        with perturb(self._model, job.items, shared.perturbation):
            scores = score(self._corpus.train, starts, len(job.items), beat)
        with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # none of a member's could be judged
            of_each: NDArray[np.float64] = np.nanmean(scores.reshape(len(job.items), -1), axis=1)
        return of_each

    def _loss(self, text: Bytes, starts: NDArray[np.int64], n: int, beat: Callable[[int], None]) -> NDArray[np.float64]:
        """Minus bits per byte of each sequence of each of n members, (n·B,)."""
        assert self._model is not None
        x, y = (torch.from_numpy(part).repeat(n, 1) for part in sequences(text, starts, self._config.ctx))
        with torch.inference_mode():
            losses = bits(self._model(x), y)
        beat(x.numel())
        scores: NDArray[np.float64] = -losses.double().numpy()
        return scores

    def _reward(
        self, text: Bytes, starts: NDArray[np.int64], n: int, beat: Callable[[int], None]
    ) -> NDArray[np.float64]:
        """The reward of what each member writes, greedily, after half a sequence: (n·B,)."""
        assert self._model is not None
        ctx = self._config.ctx
        prompts = torch.from_numpy(sequences(text, starts, ctx)[0][:, : ctx // 2]).repeat(n, 1)
        written = generate(self._model, prompts, ctx - ctx // 2, ctx=ctx, generator=None)
        beat(len(prompts) * ctx)
        said, asked = ([_decoded(row) for row in rows] for rows in (written, prompts))
        return rewards.score(rewards.load(self._config.reward), asked, said, {})


class TextTask:
    """Evaluates a run's members and theta on a text."""

    def __init__(self, config: TextConfig, corpus: Corpus, workers: Workers) -> None:
        self._config, self._workers = config, workers
        self._params = ESParams.of(config)
        self._judge = Judge(config)
        places = _places(config, corpus)
        self.rows = len(places)  # sequences of an evaluation
        self.known = baselines(corpus.train, *sequences(corpus.held_out, places, config.ctx))

    def members(self, state: ESState) -> Evaluation:
        """Fitness of all members of the coming generation. Raises `TrainingError` if too many failed."""
        p, chunks = es.ask(self._params, state)
        shared = Generation(state.generation, es.arrays(state), p)
        outcomes = self._workers.map(self._judge, shared, [Job("members", members) for members in chunks])
        fitness = np.concatenate(
            [np.full(len(c), np.nan) if isinstance(o, Failed) else o for c, o in zip(chunks, outcomes, strict=True)]
        )
        failed = int((~np.isfinite(fitness)).sum())
        if failed > self._config.es.max_failed * len(fitness) or failed == len(fitness):
            reasons = [o.message for o in outcomes if isinstance(o, Failed)] or ["their fitness is not a finite number"]
            raise TrainingError(f"{failed} of {len(fitness)} members failed: {reasons[0]}.")
        tokens = len(fitness) * self._config.batch * self._config.ctx
        return Evaluation(fitness, dict(state.buffers), tokens, es.fitness_metrics(fitness))

    def policy(self, state: ESState) -> dict[str, Any]:
        """Theta on the held-out part, beside what counting predicts, and a sample of what it writes."""
        shared = Generation(state.generation, es.arrays(state), es.perturbation(self._params, state.generation))
        rows = range(self.rows)
        jobs = [Job("evaluation", rows[i : i + EVALUATION_ROWS]) for i in range(0, len(rows), EVALUATION_ROWS)]
        outcomes = self._workers.map(self._judge, shared, jobs)
        failures = [o.message for o in outcomes if isinstance(o, Failed)]
        if failures:
            raise TrainingError(f"theta could not be evaluated: {failures[0]}.")
        scores = np.concatenate(outcomes)
        if self._config.reward:
            sound = scores[np.isfinite(scores)]
            means = {
                "eval/reward_mean": float(sound.mean()) if len(sound) else None,
                "eval/reward_std": float(sound.std()) if len(sound) else None,
            }
        else:
            mean = -float(scores.mean())
            means = {"eval/bits_per_byte": mean if math.isfinite(mean) else None, **self.known}
        return means | ({"eval/sample": self.sample(state)} if self._config.eval.sample else {})

    def sample(self, state: ESState) -> str:
        """What theta writes from a new line on, drawn with the run's seed."""
        model = Gpt(**asdict(self._config.gpt), ctx=self._config.ctx).requires_grad_(False).eval()
        model.load_state_dict({**state.theta, **state.buffers})
        generator = torch.Generator().manual_seed(integer_seed(self._config.seed, "record", state.generation))
        prompt = torch.tensor([list(PROMPT)])
        row = generate(model, prompt, self._config.eval.sample, ctx=self._config.ctx, generator=generator)[0]
        return _decoded(row)


class Backpropagation:
    """One step of AdamW in place of a generation, on all processors: what evolution strategies are compared with."""

    def __init__(self, config: TextConfig, corpus: Corpus, model: nn.Module) -> None:
        if config.reward:
            raise ConfigError(
                f"baseline={config.baseline}: a reward has no gradient. Leave reward={config.reward} out."
            )
        self._config, self._corpus, self._model = config, corpus, model
        torch.set_num_threads(available_processors())

    def __call__(self, state: ESState) -> Stepped:
        config = self._config
        starts = _starts(config, self._corpus, state.generation)
        x, y = (torch.from_numpy(part) for part in sequences(self._corpus.train, starts, config.ctx))
        self._model.load_state_dict({**state.theta, **state.buffers})
        parameters = dict(self._model.requires_grad_(True).named_parameters())
        losses = bits(self._model(x), y)
        gradients = torch.autograd.grad(losses.mean(), list(parameters.values()))
        self._model.requires_grad_(False)
        update = {name: -gradient for name, gradient in zip(parameters, gradients, strict=True)}
        lr = config.optim.lr * config.optim.lr_decay**state.generation
        theta, moments = optim.step(state.theta, update, state.optim, config=config.optim, lr=lr)
        if not all(value.isfinite().all() for value in theta.values()):
            raise TrainingError(f"backpropagation diverged at step {state.generation + 1}: lower optim.lr={lr:g}.")
        fitness = -losses.detach().double().numpy()
        record = es.fitness_metrics(fitness) | {"members/failed": 0}
        after = ESState(state.generation + 1, theta, state.buffers, moments)
        return Stepped(after, x.numel(), record, fitness, flat=False)


def _starts(config: TextConfig, corpus: Corpus, generation: int) -> NDArray[np.int64]:
    """Where the sequences of a generation begin."""
    rng = stream(config.seed, "episode", generation)
    return rng.integers(len(corpus.train) - config.ctx, size=config.batch)


def _places(config: TextConfig, corpus: Corpus) -> NDArray[np.int64]:
    """Where the sequences of an evaluation begin, side by side or spread over the whole held-out part."""
    room = len(corpus.held_out) - 1
    rows = max(1, min(room, config.eval.bytes) // config.ctx)
    return np.linspace(0, room - config.ctx, rows).astype(np.int64)


def _decoded(row: torch.Tensor) -> str:
    return bytes(row.tolist()).decode(errors="replace")


if __name__ == "__main__":
    cli.run(main)
