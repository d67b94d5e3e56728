"""A byte-level GPT trained on a text."""

import json
import shutil
import signal

import numpy as np
import pytest
import torch
from conftest import comparable, metrics, model_hash, refusal, wait_for
from torch.func import functional_call

from es_rl.errors import ConfigError
from es_rl.es.strategy import Generation
from es_rl.noise import Perturbation, member_weights
from es_rl.text import __main__ as text
from es_rl.text import corpus
from es_rl.text.config import TextConfig, parse_text
from es_rl.text.gpt import Gpt, bits, generate
from es_rl.text.task import Job, TextScorer, evaluation_starts, training_starts
from es_rl.text.training import make_model

SMALL = [
    "ctx=16", "batch=4", "gpt.layers=1", "gpt.heads=2", "gpt.width=16", "es.population=16", "workers=0",
    "eval.every=0", "eval.bytes=256", "eval.sample=20",
]  # fmt: skip


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_bytes(b"the cat sat on the mat, and the dog sat on the log.\n" * 60)
    return path


def train(file, *keys, run="run"):
    given = [f"corpus={file}", *SMALL, *keys]
    last = {key.partition("=")[0]: key for key in given}  # later ones win
    assert text.main([*last.values(), f"run={run}"]) == 0
    return file.parent / run


def test_what_counting_predicts(tmp_path):
    rng = np.random.default_rng(0)
    train, held_out = (rng.integers(0, 256, n).astype(np.uint8) for n in (100_000, 9_001))
    found = corpus.baselines(train, *corpus.sequences(held_out, np.array([0]), 9_000))
    assert found["baseline/unigram"] == pytest.approx(8, abs=0.02) and found["baseline/gzip"] == pytest.approx(
        8, abs=0.1
    )
    pairs = np.frombuffer(b"ab" * 5000, np.uint8)
    found = corpus.baselines(pairs, *corpus.sequences(pairs, np.array([0, 1, 700]), 300))
    assert found["baseline/unigram"] == pytest.approx(1, abs=0.05) and found["baseline/bigram"] < 0.01
    assert found["baseline/gzip"] < 0.5


def test_sequences_are_bytes_and_those_after_them():
    x, y = corpus.sequences(np.arange(50, dtype=np.uint8), np.array([3, 10]), 4)
    assert x.tolist() == [[3, 4, 5, 6], [10, 11, 12, 13]] and y.tolist() == [[4, 5, 6, 7], [11, 12, 13, 14]]


def test_the_network_sees_no_later_byte_and_begins_without_a_preference():
    torch.manual_seed(0)
    model = Gpt(layers=2, heads=2, width=16, ctx=8)
    x = torch.randint(256, (3, 8))
    later = x.clone()
    later[:, 5:] = 0
    assert torch.allclose(model(x)[:, :5], model(later)[:, :5], atol=1e-6)
    assert bits(model(x), torch.randint(256, (3, 8))).mean().item() == pytest.approx(8, abs=0.1)
    tied = [name for name, value in model.named_parameters() if value.shape[0] == 256]
    assert tied == ["embed.weight"]


def test_the_likeliest_bytes_are_those_of_the_whole_row():
    torch.manual_seed(0)
    model = Gpt(layers=1, heads=2, width=16, ctx=8).requires_grad_(False)
    for value in model.parameters():
        value += 0.3 * torch.randn(value.shape)
    prompts = torch.randint(256, (2, 3))
    written = generate(model, prompts, 6, ctx=8, generator=None)
    row = prompts
    for _ in range(6):
        row = torch.cat([row, model(row[:, -8:])[:, -1].argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(written, row[:, 3:])


@pytest.mark.parametrize("noise", ["lowrank", "dense"])
def test_members_are_scored_on_the_same_sequences_by_their_own_weights(file, noise):
    config = parse_text([f"corpus={file}", *SMALL])
    data, model = corpus.read(str(file), 16), make_model(config, "")
    p = Perturbation(kind=noise, sigma=0.3, seed=0, generation=4, block=8)
    shared = Generation(4, {k: v.numpy() for k, v in model.state_dict().items()}, p)
    scores = TextScorer(config)(shared, Job("members", range(2, 8)), lambda tokens: None)
    starts = training_starts(config, data, 4)
    x, y = (torch.from_numpy(part) for part in corpus.sequences(data.train, starts, 16))
    for row, member in enumerate(range(2, 8)):
        alone = functional_call(model, member_weights(model, member, p), (x,))
        assert scores[row] == pytest.approx(-bits(alone, y).mean().item(), rel=1e-5)


@pytest.mark.slow
def test_it_learns_and_says_what_it_writes(file):
    run = train(file, "generations=60", "es.population=64", "es.sigma=0.05", "optim.lr=0.05", "eval.every=30")
    lines = metrics(run)
    last = lines[-1]
    assert last["eval/bits_per_byte"] < last["baseline/unigram"] < 5 and lines[29]["eval/bits_per_byte"] < 8
    assert last["eval/bits_per_byte_best"] <= last["eval/bits_per_byte"]
    assert last["tokens"] == 60 * 64 * 4 * 16 and isinstance(last["eval/sample"], str)
    about = json.loads((run / "checkpoints/last/state.json").read_text())["about"]
    assert about["gpt"] == {"layers": 1, "heads": 2, "width": 16}


@pytest.mark.slow
def test_workers_and_stops_change_no_bit(file):
    straight = train(file, "generations=4", run="straight")
    shared = train(file, "generations=4", "workers=2", run="shared")
    assert model_hash(straight) == model_hash(shared) and comparable(straight) == comparable(shared)
    stopped = train(file, "generations=2", run="stopped")
    assert text.main([f"resume={stopped}", "generations=4"]) == 0
    assert model_hash(stopped) == model_hash(straight)
    assert model_hash(train(file, "generations=4", "seed=1", run="other")) != model_hash(straight)


def test_a_trained_one_is_gone_on_with_as_a_new_run(file):
    first = train(file, "generations=2", run="first")
    keys = [f"model={first}", "es.sigma=1e-9", "optim.lr=1e-12"]
    with pytest.raises(ConfigError, match="seed=0: is the seed of model="):
        train(file, "generations=1", *keys, run="second")
    second = train(file, "generations=1", "seed=1", *keys, run="second")
    shutil.move(first, file.parent / "elsewhere")
    assert text.main([f"resume={second}", "generations=2"]) == 0  # which needs it no more
    shutil.move(file.parent / "elsewhere", first)
    before, after = (metrics(run)[-1]["eval/bits_per_byte"] for run in (first, second))
    assert after == pytest.approx(before, abs=1e-4)


@pytest.mark.slow
def test_what_is_held_out_is_what_is_measured(tmp_path):
    """A text whose end is of other bytes than all before."""
    path = tmp_path / "two.txt"
    path.write_bytes(b"ab" * 4500 + b"yz" * 500)
    run = train(path, "generations=60", "baseline=adamw", "optim.name=adamw", "optim.lr=0.01")
    last = metrics(run)[-1]
    assert last["fitness/mean"] > -1.5 and last["eval/bits_per_byte"] > 6 and last["baseline/unigram"] > 10
    held_out = corpus.read(str(path), 16).held_out
    places = evaluation_starts(TextConfig(ctx=16), corpus.read(str(path), 16))
    assert len(held_out) == 1000 and places[0] == 0 and places[-1] == 1000 - 17 and len(places) == 999 // 16


def test_counting_in_blocks_is_counting(monkeypatch):
    rng = np.random.default_rng(0)
    train = rng.integers(97, 103, 5000).astype(np.uint8)
    parts = corpus.sequences(train, np.arange(0, 4000, 100), 50)
    whole = corpus.baselines(train, *parts)
    monkeypatch.setattr(corpus, "BLOCK", 7)
    assert corpus.baselines(train, *parts) == pytest.approx(whole)


def test_a_stop_is_heard_between_two_steps(file, start):
    keys = [*(key for key in SMALL if not key.startswith("workers")), "workers=1", "baseline=adamw"]
    process = start(f"corpus={file}", *keys, "minutes=60", "run=run", verb="text")
    wait_for(lambda: (file.parent / "run/metrics.jsonl").exists() and metrics(file.parent / "run"), process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 75
    assert "go on with resume=run" in (file.parent / "out.txt").read_text()


DECLINES = """\
    return [None if p[0] in 'tad ' else 1.0 * len(c.strip()) for p, c in zip(prompts, completions)]
"""
RAISES = """\
    if any(p[0] in 'tad ' for p in prompts):
        raise ValueError('odd')
    return [1.0 * len(c.strip()) for c in completions]
"""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "body"), [("picky", DECLINES), ("odd", RAISES)])
def test_completions_that_a_reward_declines_or_raises_on_fail_alone(file, monkeypatch, name, body):
    (file.parent / f"{name}.py").write_text(f"def judge(prompts, completions, **_):\n{body}")
    monkeypatch.syspath_prepend(str(file.parent))
    run = train(file, f"reward={name}:judge", "generations=3", "batch=16")
    assert metrics(run)[-1]["members/failed"] == 0 and metrics(run)[-1]["fitness/max"] > 0


@pytest.mark.slow
def test_backpropagation_of_the_same_net_is_compared(file):
    run = train(file, "generations=40", "baseline=adamw", "optim.name=adamw", "optim.lr=0.01")
    last = metrics(run)[-1]
    assert last["eval/bits_per_byte"] < last["baseline/unigram"] and last["tokens"] == 40 * 4 * 16


@pytest.mark.slow
def test_a_score_of_generated_text_is_a_reward(file, monkeypatch):
    (file.parent / "letters.py").write_text(
        "def plain(prompts, completions, **_):\n"
        "    assert len(prompts) == len(completions) and len(prompts[0]) == 8\n"
        "    return [sum(letter.isascii() for letter in c) / max(1, len(c)) for c in completions]\n"
    )
    monkeypatch.syspath_prepend(str(file.parent))
    run = train(file, "reward=letters:plain", "generations=40", "es.sigma=0.1", "optim.lr=0.1", "es.population=32")
    assert metrics(run)[-1]["eval/reward_mean"] > 0.9
    with pytest.raises(ConfigError, match="importing a module runs its code"):
        text.main([f"resume={run}", "generations=41"])


def test_rewards_that_cannot_be_used_are_named(file, command, monkeypatch):
    monkeypatch.syspath_prepend(str(file.parent))
    (file.parent / "bad.py").write_text(
        "def raises(prompts, completions): raise KeyError('oops')\n"
        "def short(prompts, completions): return [1.0]\n"
        "def nothing(prompts, completions): return [None] * len(prompts)\n"
    )
    keys = [f"corpus={file}", *SMALL, "generations=1"]
    for name, code, message in (
        ("raises", 5, "KeyError: 'oops'"), ("short", 5, "returned 1 numbers for"),
        ("nothing", 5, "not a finite number"), ("missing", 3, "bad has no function missing"),
    ):  # fmt: skip
        found, said = refusal(text.main, *keys, f"reward=bad:{name}", f"run={name}")
        assert found == code and message in said
    (file.parent / "slow.py").write_text("import time\ndef hangs(prompts, completions): time.sleep(1000)\n")
    few = [key for key in keys if not key.startswith(("es.population", "workers"))]
    done = command("text", *few, "es.population=2", "workers=1", "hang_after=2", "reward=slow:hangs", "run=hangs")
    assert done.returncode == 5 and "the worker finished no step for 2 s" in done.stderr
    found, said = refusal(text.main, *keys, "reward=nowhere:fn")
    assert found == 3 and "nowhere cannot be imported" in said


def test_a_target_in_bits_is_met_from_above(file):
    assert len(metrics(train(file, "target_bits=100", "eval.every=1", "generations=5"))) == 0
    assert len(metrics(train(file, "target_bits=0.01", "eval.every=1", "generations=2", run="far"))) == 2


@pytest.mark.parametrize(
    ("content", "keys", "message"),
    [
        (None, [], "cannot be read"),
        (b"", [], "0 bytes"),
        (b"x" * 100, ["ctx=16"], "both parts must be longer than ctx=16"),
        (b"x" * 1000, ["es.population=7"], "es.population=7: members come in antithetic pairs"),
        (b"x" * 1000, ["gpt.width=10", "gpt.heads=4"], "gpt.width=10: must be a multiple of gpt.heads=4"),
        (b"x" * 1000, ["baseline=sgd"], "baseline=sgd: must be one of"),
        (b"x" * 1000, ["baseline=adamw", "optim.name=sgd"], "optim.name=sgd: baseline=adamw is itself the optimiser"),
        (b"x" * 1000, ["es.limit=5"], "es.limit: is for training in environments"),
        (b"x" * 1000, ["reward=m:f", "target_bits=2"], "target_bits: with a reward"),
        (b"x" * 1000, ["target_reward=2"], "target_reward: needs a reward"),
        (b"x" * 1000, ["reward=countdown"], "reward=countdown: must be module:function"),
    ],
)
def test_bad_input_is_refused(tmp_path, content, keys, message):
    if content is not None:
        (tmp_path / "corpus.txt").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        text.main([f"corpus={tmp_path / 'corpus.txt'}", *keys])
    assert not (tmp_path / "runs").exists()


def test_a_corpus_that_has_moved_is_found_again_and_another_is_refused(file, tmp_path):
    run = train(file, "generations=1")
    moved = file.rename(tmp_path / "moved.txt")
    code, said = refusal(text.main, f"resume={run}", "generations=2")
    assert code == 2 and f"corpus={file}: cannot be read" in said
    assert text.main([f"resume={run}", "generations=2", f"corpus={moved}"]) == 0
    moved.write_bytes(moved.read_bytes().replace(b"cat", b"cow"))
    code, said = refusal(text.main, f"resume={run}", "generations=3")
    assert code == 4 and "was trained for something else. These differ: corpus" in said
