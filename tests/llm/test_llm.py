"""Language models: members, updates, rewards, and a run from its command to the model that it leaves."""

import json
import math
import signal
import time

import numpy as np
import pytest
import torch
from conftest import comparable, metrics, model_hash, soak, wait_for
from safetensors.torch import load_file
from torch.func import functional_call

from es_rl import es, noise
from es_rl.errors import CheckpointError, ConfigError, EnvError, Stopped, TrainingError
from es_rl.es.strategy import MemberScores
from es_rl.llm import __main__ as llm
from es_rl.llm import chat, in_place, task
from es_rl.llm import model as language
from es_rl.llm import prompts as dataset
from es_rl.llm.in_place import Direction, ascend, write
from es_rl.llm.model import Completion, Language, kl
from es_rl.llm.reward_worker import RewardWorker
from es_rl.noise import Perturbation, member_weights
from es_rl.population.forward import perturb
from es_rl.population.members import members_of
from es_rl.rewards import conciseness, countdown, exact_match, parse, score, total
from es_rl.rewards.countdown import evaluate, solves

transformers = pytest.importorskip("transformers")
SMALL = [
    "max_new_tokens=8",
    "es.population=8",
    "batch=2",
    "eval.every=2",
    "workers=0",
    "es.sigma=0.05",
    "optim.lr=0.01",
]

LETTERS = "letters = lambda completions, **_: [sum(map(ord, c)) for c in completions]"


@pytest.fixture
def speaker(tiny):
    model, tokenizer = language.open_model(tiny, "float32")
    return Language(model, tokenizer, torch.device("cpu"))


@pytest.fixture
def data(tmp_path):
    """Prompts of different lengths, the last ones held out."""
    path = tmp_path / "data.jsonl"
    rows = [{"prompt": f"say {'again ' * (i % 3)}{i}:", "answer": "e" * 8} for i in range(20)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def tune(tiny, data, tmp_path):
    """Fine-tune in this process; returns the run directory."""

    def run(*argv, run="run"):
        given = {argument.partition("=")[0] for argument in argv}
        more = (
            [] if "resume" in given else [f"model={tiny}", f"data={data}", f"run={run}", "reward=hostile:high_letters"]
        )
        more += [] if "resume" in given else SMALL
        kept = [m for m in more if m.partition("=")[0] not in given]
        assert llm.main([*kept, *argv]) == 0
        return tmp_path / run

    return run


def theta_of(model):
    return {name: value.detach().float().clone() for name, value in model.named_parameters()}


@pytest.mark.slow
def test_a_tiny_model_learns_to_say_one_letter(tune):
    run = tune(
        "generations=12", "es.population=64", "batch=4", "eval.every=12", "max_new_tokens=16", "reward=hostile:letter_e"
    )
    last = metrics(run)[-1]
    assert last["eval/reward_mean"] > 0.9 > 0.2 > last["baseline/start"]
    assert last["kl"] > 0 and last["tokens"] > 0 and last["time/tokens_per_second"] > 0
    samples = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    assert len(samples) == 4 and samples[-1]["completion"].count("e") >= 14


@pytest.mark.parametrize("noise_kind", [*soak("dense"), "lowrank"])
@pytest.mark.slow
def test_theta_is_the_same_for_any_number_of_workers_after_any_stop(tune, noise_kind):
    keys = (f"es.noise={noise_kind}", "optim.anchor=0.1", "chunk=2")
    whole = tune(*keys, "generations=3", run="whole")
    for count in (1, 2) if noise_kind == "dense" else (2,):
        assert model_hash(tune(*keys, "generations=3", f"workers={count}", run=f"w{count}")) == model_hash(whole)
    half = tune(*keys, "generations=2", run="half")
    tune("resume=half", "generations=3", "reward=hostile:high_letters")
    assert model_hash(half) == model_hash(whole) and comparable(half)[-1] == comparable(whole)[-1]
    assert model_hash(tune(*keys, "generations=3", "seed=1", run="other")) != model_hash(whole)


def test_members_in_turn_are_those_of_the_population_context_to_the_bit(speaker):
    p = Perturbation(kind="dense", sigma=0.1, seed=3, generation=2)
    theta = theta_of(speaker.model)
    expected = members_of(speaker.model, [5], p)
    write(speaker.model, theta.__getitem__, p, Direction(2, -p.sigma))
    assert all(torch.equal(value, expected[name][0]) for name, value in speaker.model.named_parameters())
    write(speaker.model, theta.__getitem__, p)
    assert all(torch.equal(value, theta[name]) for name, value in speaker.model.named_parameters())


def test_slices_of_noise_are_the_noise(monkeypatch):
    p = Perturbation(seed=1)
    at_once = noise.parameter_stream(p, 3, 1).standard_normal(1000, dtype=np.float32)
    monkeypatch.setattr(in_place, "SLICE", 64)
    parts = [n[0] for _, n in in_place._slices(1000, [noise.parameter_stream(p, 3, 1)])]
    assert len(parts) > 10 and np.array_equal(np.concatenate(parts), at_once)


@pytest.mark.parametrize("kind", ["dense", "lowrank"])
def test_the_update_in_place_is_the_estimate(speaker, kind, monkeypatch):
    monkeypatch.setattr(in_place, "SLICE", 100)
    theta = theta_of(speaker.model)
    begun = {name: value.clone() for name, value in theta.items()}
    frozen = frozenset(name for name in theta if "mlp" in name)
    p = Perturbation(kind=kind, rank=2, sigma=0.1, frozen=frozen, seed=4)
    pairs, differences = [0, 2, 3], np.array([0.5, -1.0, 0.25])
    shapes = {name: tuple(value.shape) for name, value in theta.items()}
    expected = noise.estimate(shapes, pairs, differences, p)
    directions = [Direction(i, d / (2 * len(pairs) * p.sigma)) for i, d in zip(pairs, differences, strict=True)]
    norm = ascend(theta, directions, p, lr=0.3)
    change = {name: theta[name] - begun[name] for name in theta}
    for name, value in change.items():
        if name in frozen:
            assert not value.any()
        else:
            np.testing.assert_allclose(value, 0.3 * expected[name], atol=1e-6)
    assert norm == pytest.approx(math.sqrt(sum(float(v.double().square().sum()) for v in change.values())), rel=1e-6)


def test_theta_is_pulled_to_where_it_began(speaker):
    theta = {name: value + 1 for name, value in theta_of(speaker.model).items()}
    start = dict(speaker.model.named_parameters())
    ascend(theta, [Direction(0, 0.0)], Perturbation(), lr=1.0, anchor=0.25, start=start.__getitem__)
    assert all(torch.allclose(value - start[name], torch.tensor(0.75), atol=1e-6) for name, value in theta.items())


@pytest.mark.slow
def test_a_thousand_members_leave_bfloat16_weights_as_they_were(tiny):
    model, _ = language.open_model(tiny, "bfloat16")
    theta, before = theta_of(model), {name: value.clone() for name, value in model.named_parameters()}
    p = Perturbation(sigma=0.01)
    for i in range(1000):
        write(model, theta.__getitem__, p, Direction(i, p.sigma))
        write(model, theta.__getitem__, p)
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())
    assert in_place.unchanged(theta, Perturbation(sigma=1e-6), torch.bfloat16) > 0.9
    assert in_place.unchanged(theta, p, torch.float32) < 0.01


def test_a_batch_of_members_says_what_each_says_alone(speaker):
    prompts = ["one", "a longer prompt than that", "x"]
    p = Perturbation(kind="lowrank", sigma=0.05, seed=1)
    with perturb(speaker.model, range(4), p):
        together = speaker.complete(prompts, copies=4, most=6, beat=lambda rows: None)
    theta = theta_of(speaker.model)
    for member, said in enumerate(together):
        for name, value in member_weights(speaker.model, member, p).items():
            speaker.model.get_parameter(name).data.copy_(value)
        alone = [speaker.complete([prompt], copies=1, most=6, beat=lambda rows: None)[0][0] for prompt in prompts]
        assert said == alone
        write(speaker.model, theta.__getitem__, p)
    assert len({own[0].text for own in together}) > 1


def test_log_probabilities_are_those_of_the_model_and_the_distance_to_itself_is_zero(speaker):
    prompts, said = ["ab", "a longer one"], [Completion("", [5, 6, 7]), Completion("", [8])]
    found = speaker.log_probabilities(prompts, said)
    for prompt, completion, logs in zip(prompts, said, found, strict=True):
        ids = [*speaker.tokenizer(prompt)["input_ids"], *completion.tokens]
        parameters = dict(speaker.model.named_parameters())
        with torch.no_grad():
            out = functional_call(speaker.model, parameters, (torch.tensor([ids]),)).logits[0].log_softmax(-1)
        expected = [out[len(ids) - len(completion.tokens) - 1 + i, token] for i, token in enumerate(completion.tokens)]
        assert torch.allclose(logs, torch.stack(expected), atol=1e-5)
    assert kl(found, found) == 0.0
    assert kl(found, [value - 1 for value in found]) == pytest.approx(math.exp(-1))


def test_what_a_run_leaves_is_a_model_of_hugging_face(tune, tmp_path):
    run = tune("generations=2", "modules=[q_proj,v_proj]")
    theta, start = (load_file(f) for f in (run / "checkpoints/last/model.safetensors", run / "start/model.safetensors"))
    moved = {name.split(".")[-2] for name in theta if not torch.equal(theta[name], start[name])}
    assert moved == {"q_proj", "v_proj"}
    assert llm.main([f"export={run}", f"out={tmp_path / 'out'}"]) == 0
    for path in (run / "pretrained", tmp_path / "out"):
        model = transformers.AutoModelForCausalLM.from_pretrained(path)
        assert all(torch.equal(value, theta[name]) for name, value in model.named_parameters())
        assert transformers.AutoTokenizer.from_pretrained(path).eos_token == "<end>"


def test_without_mirroring_each_member_has_a_direction_of_its_own(tune, monkeypatch):
    seen = []
    monkeypatch.setattr(task.LlmTask, "members", _fake_members(seen))
    run = tune(
        "preset=es-at-scale", "es.population=6", "generations=1", "es.sigma=0.1", "optim.lr=0.5", "eval.kl=false"
    )
    check_step(run, seen[0], 6, 0.1, 0.5)


def test_the_published_settings_are_those_of_the_preset(tiny, data, tmp_path, monkeypatch):
    """30 members, sigma 0.001, and a step of sigma/2 times the mean of z·epsilon."""
    seen = []
    monkeypatch.setattr(task.LlmTask, "members", _fake_members(seen))
    keys = [f"model={tiny}", f"data={data}", "reward=hostile:high_letters", "run=run", "max_new_tokens=4", "workers=0"]
    assert llm.main([*keys, "preset=es-at-scale", "generations=1", "eval.kl=false"]) == 0
    check_step(tmp_path / "run", seen[0], 30, 0.001, 0.001**2 / 2)


def check_step(run, names, n, sigma, lr):
    """theta has moved by lr/(n sigma) Σ z epsilon, the scores being 0 … n−1."""
    theta, start = (load_file(f) for f in (run / "checkpoints/last/model.safetensors", run / "start/model.safetensors"))
    scores = np.arange(float(n))
    z = (scores - scores.mean()) / scores.std()
    p = Perturbation(kind="dense", sigma=sigma, seed=0, generation=0)
    for position, name in enumerate(names):
        epsilons = [
            noise.parameter_stream(p, i, position).standard_normal(theta[name].shape, np.float32) for i in range(n)
        ]
        expected = lr / (n * sigma) * sum(w * e for w, e in zip(z, epsilons, strict=True))
        np.testing.assert_allclose(theta[name] - start[name], expected, rtol=1e-2, atol=1e-3 * np.abs(expected).max())


def _fake_members(seen):
    def members(self, state):
        seen.append(state.theta)
        fitness = np.arange(float(self._config.es.population))
        return MemberScores(fitness, {}, 1, es.fitness_metrics(fitness))

    return members


def test_a_collapse_ends_the_run(tune, monkeypatch, tmp_path):
    good, bad = np.arange(8.0), np.array([0.0] * 7 + [1.0])
    fitness = [good] * 3 + [bad] * 5
    monkeypatch.setattr(
        task.LlmTask,
        "members",
        lambda self, state: MemberScores(fitness[state.generation], {}, 1, es.fitness_metrics(good)),
    )
    with pytest.raises(TrainingError, match=r"collapsed: in 3 generations .* lower es.sigma=0.05"):
        tune("generations=9", "eval.every=0")
    assert [line["generation"] for line in metrics(tmp_path / "run")] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("medians", "fell"),
    [
        ([0, 1, 1, 1, 0, 0, 0], True),
        ([0, 1, 1, 0, 0, 0, 0], False),  # it was never above for long: rewards are rare
        ([0, 1, 1, 1, 0, 0, 1], False),
        ([0, 1, 1, 1, 1, 1, 1], False),
    ],
)
def test_what_a_collapse_is(medians, fell):
    guard = task.CollapseDetector()
    found = [guard.fell(np.array([min(m, 0.5), m, m, m])) for m in medians]
    assert found[-1] is fell and not any(found[:-1])


@pytest.mark.slow
def test_a_stop_within_an_evaluation_loses_nothing(tune, monkeypatch, tmp_path):
    whole = tune("generations=4", run="whole")
    asked, speak = [], task.LlmTask._speak

    def stopping(self, kind, state, rows):
        asked.append(kind)
        if len(asked) == 3:  # the second evaluation of theta
            raise Stopped("stopped by SIGTERM", 75)
        return speak(self, kind, state, rows)

    monkeypatch.setattr(task.LlmTask, "_speak", stopping)
    with pytest.raises(Stopped, match="generation 4 is saved"):
        tune("generations=4", run="half")
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    tune("resume=half", "generations=4", "reward=hostile:high_letters")
    assert model_hash(tmp_path / "half") == model_hash(whole)
    assert [line["generation"] for line in metrics(tmp_path / "half")] == [1, 2, 3, 4]


@pytest.mark.slow
def test_theta_that_is_half_moved_is_not_saved(tune, monkeypatch, tmp_path):
    whole = tune("generations=3", run="whole")
    ascend = task.ascend

    def breaking(theta, directions, p, **more):
        norm = ascend(theta, directions, p, **more)
        if p.generation == 1:
            raise MemoryError("no")
        return norm

    monkeypatch.setattr(task, "ascend", breaking)
    with pytest.raises(TrainingError, match="the update of generation 2 broke off"):
        tune("generations=3", "checkpoint.every=1", run="half")
    monkeypatch.setattr(task, "ascend", ascend)
    tune("resume=half", "generations=3", "reward=hostile:high_letters")
    assert model_hash(tmp_path / "half") == model_hash(whole)


def test_what_is_frozen_is_not_copied_for_each_member(speaker):
    frozen = frozenset(name for name, _ in speaker.model.named_parameters() if "q_proj" not in name)
    p = Perturbation(kind="lowrank", sigma=0.05, seed=1, frozen=frozen)
    ids = torch.arange(12).reshape(4, 3)
    with perturb(speaker.model, range(4), p) as members:
        assert set(members._all) == {name for name, _ in speaker.model.named_parameters()} - frozen
        logits = speaker.model(ids).logits
    for member in range(4):
        weights = member_weights(speaker.model, member, p)
        expected = functional_call(speaker.model, weights, (ids[member : member + 1],)).logits
        assert torch.allclose(logits[member], expected[0], atol=1e-5)


class ReadsItsParameter(torch.nn.Module):
    """An activation that takes a parameter's value into Python, where it is one number for all members."""

    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.ones(1))

    def forward(self, x):
        return x * self.gain.item()


def test_a_model_without_rules_says_so(speaker):
    model = speaker.model
    model.model.layers[0].mlp.act_fn = ReadsItsParameter()
    model.requires_grad_(False)
    with perturb(model, range(4), Perturbation(kind="lowrank")), pytest.raises(EnvError, match="es.noise=dense"):
        model.generate(input_ids=torch.arange(8).reshape(4, 2), max_new_tokens=3, do_sample=False)


def test_a_model_s_own_settings_do_not_reach_the_completions(speaker):
    said = speaker.complete(["abc"], copies=1, most=8, beat=lambda rows: None)
    speaker.model.generation_config.repetition_penalty = 5.0
    speaker.model.generation_config.no_repeat_ngram_size = 1
    assert speaker.complete(["abc"], copies=1, most=8, beat=lambda rows: None) == said
    assert speaker.model.generation_config.repetition_penalty == 5.0


@pytest.mark.parametrize(
    ("expression", "value"),
    [("1+2*3", 7), ("(1 + 2) * 3", 9), ("8/4-1", 1), ("2 × 3 ÷ 6 − 1", 0), ("((7))", 7), ("1/3*3", 1)],
)
def test_expressions(expression, value):
    assert evaluate(expression)[0] == value


@pytest.mark.parametrize(
    "expression",
    [
        "9**9**9",
        "1+",
        "(1",
        "1)",
        "",
        "a",
        "__import__('os')",
        "1/0",
        "99999*99999",
        "1 2",
        "2^3",
        "-1",
        "(" * 150,
        "1" * 201,
        "1.5",
    ],
)
def test_what_is_no_expression_is_refused(expression):
    begun = time.monotonic()
    with pytest.raises(ValueError, match="."):
        evaluate(expression)
    assert not solves(expression, [9, 9, 9], 1)
    assert time.monotonic() - begun < 1


def test_built_in_rewards():
    form = "<think>hm</think><answer>{}</answer>"
    said = [form.format("3*4+5"), "<answer>3*4+5</answer>", form.format("3+4+5"), "17", form.format("5*4-3")]
    assert countdown(said, [[3, 4, 5]] * 5, [17] * 5) == [1.1, 1.0, 0.1, 0.0, 1.1]
    assert countdown([form.format("9**9**9")], [[9, 9, 9]], [1]) == [0.1]
    assert conciseness(["abc", ""], ["ab", "xyz"]) == [-1.0, -3.0]
    chat = [[{"role": "assistant", "content": " Paris. "}], [{"role": "assistant", "content": "Rome"}]]
    assert exact_match(chat, answer=["paris", "Paris"]) == [1.0, 0.0]


def test_rewards_are_weighted_and_those_that_say_nothing_are_left_out():
    terms = parse("exact_match+0.5*hostile:sometimes")
    scores = total(terms, ["p"] * 3, ["a", "b", "c"], {"answer": ["a", "x", "c"]})
    assert scores.tolist() == [1.0 + 0.5, 0.0, 1.5]  # it says 1, None, 1
    assert np.isnan(total(parse("hostile:sometimes"), ["p"] * 2, ["a", "b"], {})[1])


def chatml(opening, inside=""):
    """A template of ChatML: what it puts before an answer that is asked for, and into one that is there."""
    return (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' %}" + inside + "{% endif %}"
        "{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n" + opening + "{% endif %}"
    )  # fmt: skip


EMPTY = "<think>\n\n</think>\n\n"
R1 = (
    "{% for m in messages %}{% if m['role'] == 'user' %}<|User|>{{ m['content'] }}{% else %}<|Assistant|>{{ m['content'] }}"
    "<|end|>{% endif %}{% endfor %}{% if add_generation_prompt %}<|Assistant|><think>\n{% endif %}"
)  # fmt: skip


@pytest.mark.parametrize(
    ("template", "begun"),
    [
        (chatml(""), ""),
        (chatml("<think>\n"), "<think>\n"),
        (chatml("<reasoning>"), "<reasoning>"),
        (chatml(EMPTY, EMPTY), EMPTY),  # thinking switched off
        (chatml("", EMPTY), ""),  # thinking switched on
        (chatml("<think>\n", EMPTY), "<think>\n"),
        (R1, "<think>\n"),
        ("{% for m in messages %}{{ m['content'] }}?{% endfor %}", ""),
    ],
    ids=["nothing", "think", "another tag", "off", "on", "think, and an empty one in answers", "R1", "no opening"],
)
def test_what_the_template_puts_into_the_models_mouth_is_of_the_answer(speaker, template, begun):
    speaker.tokenizer.chat_template = template
    prompt = [{"role": "user", "content": "2+2="}]
    assert chat.begun(speaker.tokenizer, prompt) == begun
    assert chat.text(speaker.tokenizer, prompt).endswith(begun)
    ((said,),) = speaker.complete([prompt], copies=1, most=4, beat=lambda n: None)
    assert said.text.startswith(begun) and len(said.tokens) <= 4


@pytest.mark.parametrize("template", [chatml(""), chatml("<think>\n"), R1])
def test_a_message_of_the_assistant_is_continued(speaker, template):
    speaker.tokenizer.chat_template = template
    prompt = [{"role": "user", "content": "2+2="}, {"role": "assistant", "content": "It is"}]
    assert chat.text(speaker.tokenizer, prompt).endswith("It is")
    assert chat.text(speaker.tokenizer, prompt).count("It is") == 1 and chat.begun(speaker.tokenizer, prompt) == "It is"
    ((said,),) = speaker.complete([prompt], copies=1, most=4, beat=lambda n: None)
    assert said.text.startswith("It is") and len(said.text) > len("It is")


def test_a_reward_sees_special_tokens_but_those_that_end_or_pad(speaker):
    speaker.tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    think, over = speaker.tokenizer.convert_tokens_to_ids(["<think>", "</think>"])
    word, end = speaker.tokenizer("4")["input_ids"], speaker.tokenizer.eos_token_id
    said = speaker._completion([think, *word, over, *word, end, end], "")
    assert said.text.replace(" ", "") == "<think>4</think>4" and len(said.tokens) == 5


def test_a_padding_token_without_a_vector_is_not_used(speaker):
    speaker.tokenizer.add_special_tokens({"pad_token": "<pad>"})
    assert speaker.tokenizer.pad_token_id >= speaker.model.get_input_embeddings().num_embeddings
    padded = Language(speaker.model, speaker.tokenizer, torch.device("cpu"))
    prompts = ["a", "a longer prompt"]
    said = [one.complete(prompts, copies=1, most=6, beat=lambda n: None) for one in (speaker, padded)]
    assert said[0] == said[1]


def test_half_of_a_pair_of_surrogates_is_one_line(tmp_path):
    for row in ('{"prompt": "a\\ud83d"}', '{"prompt": [{"role": "user", "content": "\\udc00"}]}'):
        (tmp_path / "data.jsonl").write_text(row + "\n")
        with pytest.raises(ConfigError, match="line 1: the prompt has half of a pair of surrogates"):
            dataset.lines(str(tmp_path / "data.jsonl"), "data")


def test_an_async_reward_is_awaited():
    import asyncio

    async def slow(completions, **_):
        await asyncio.sleep(0)
        return [float(len(c)) for c in completions]

    assert score(slow, ["p"] * 2, ["a", "bcd"], {}).tolist() == [1.0, 3.0]


def test_columns_and_messages_reach_a_reward_as_they_do_in_trl(tune, tmp_path, tiny):
    rows = [{"prompt": [{"role": "user", "content": f"{i}"}], "answer": i} for i in range(10)]
    (tmp_path / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ConfigError, match="has chat messages, but the model has no chat template"):
        tune("data=chat.jsonl", "generations=1")
    template = "{% for m in messages %}{{ m['content'] }}?{% endfor %}"
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(tmp_path / "chatty")
    transformers.AutoModelForCausalLM.from_pretrained(tiny).save_pretrained(tmp_path / "chatty")
    run = tune("data=chat.jsonl", "model=chatty", "generations=1", "reward=hostile:checks_messages")
    assert metrics(run)[-1]["eval/reward_mean"] == 1.0


@pytest.mark.parametrize(
    ("reward", "error"),
    [
        ("hostile:raises", "could not be judged: ValueError: no"),
        ("hostile:hangs", "could not be judged: the worker finished no step for 4 s"),
        ("hostile:too_few", "the reward returned 1 numbers for 2 completions"),
        ("hostile:all_none", "could not be judged: it is None, NaN or infinite"),
        ("hostile:all_nan", "could not be judged: it is None, NaN or infinite"),
        ("hostile:missing", "hostile has no function missing"),
        ("nowhere:x", "nowhere cannot be imported"),
        ("countdwn", "must be one of countdown, .* Did you mean countdown"),
        ("x*exact_match", "x is not a number"),
        ("countdown", "missing 2 required positional arguments"),
    ],
)
@pytest.mark.slow
def test_a_reward_that_cannot_be_used(tune, reward, error):
    with pytest.raises(EnvError, match=error):
        tune(f"reward={reward}", "generations=1", "es.population=2", "reward_seconds=4", "es.max_failed=0")


def test_now_and_then_a_completion_may_not_be_judged(tune):
    (line,) = metrics(tune("reward=hostile:sometimes", "generations=1"))
    assert line["members/failed"] == 0 and line["fitness/mean"] == 1.0


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        ('{"prompt": "a"}\n{"prompt": \n', "line 2: not JSON"),
        ('{"prompt": "a"}\n[1]\n', "line 2: has no prompt"),
        ('{"question": "a"}\n', "line 1: has no prompt"),
        ('{"prompt": 3}\n', "line 1: the prompt must be a string"),
        ('{"prompt": "a"}\n', "one line. Give more"),
        ('{"prompt": "a"}\n{"prompt": "b", "c": 1}\n', "row 2: has other columns than the first; differing: c"),
        ("", "has no lines"),
        ('{"prompt": "a", "completions": 1}\n', "the column completions has a name"),
        ('{"prompt": "' + "a" * 80 + '"}\n{"prompt": "b"}\n', "row 1: a prompt of 80 tokens and max_new_tokens=8"),
    ],
)
def test_bad_data(tune, tmp_path, lines, error):
    (tmp_path / "bad.jsonl").write_text(lines)
    with pytest.raises(ConfigError, match=error):
        tune("data=bad.jsonl", "generations=1")
    assert not (tmp_path / "run").exists()


def test_bad_models(tune, tiny, tmp_path):
    pickled, foreign, empty = (tmp_path / name for name in ("pickled", "foreign", "empty"))
    for path in (pickled, foreign, empty):
        path.mkdir()
        (path / "config.json").write_text((tiny / "config.json").read_text())
    (pickled / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    config = json.loads((tiny / "config.json").read_text()) | {"auto_map": {"AutoModelForCausalLM": "evil.Model"}}
    (foreign / "config.json").write_text(json.dumps(config))
    (foreign / "evil.py").write_text("raise SystemExit(99)")
    for path, error in (
        (pickled, "weights are pickled only"), (foreign, "needs code of its own"), (empty, "has neither"),
        (tmp_path / "nothing", "not a directory"),
    ):  # fmt: skip
        with pytest.raises(EnvError, match=error):
            tune(f"model={path}", "generations=1")
    assert not (tmp_path / "run").exists()


def write_gguf(model, tokenizer, path):
    """A Llama as one GGUF file: whole numbers, the rows of q and k in the order of llama.cpp's rotations."""
    gguf = pytest.importorskip("gguf")
    config, file = model.config, gguf.GGUFWriter(path, "llama")
    file.add_vocab_size(config.vocab_size)
    file.add_context_length(config.max_position_embeddings)
    file.add_embedding_length(config.hidden_size)
    file.add_block_count(config.num_hidden_layers)
    file.add_feed_forward_length(config.intermediate_size)
    file.add_head_count(config.num_attention_heads)
    file.add_head_count_kv(config.num_key_value_heads)
    file.add_layer_norm_rms_eps(config.rms_norm_eps)
    file.add_rope_freq_base(config.rope_parameters["rope_theta"])
    file.add_tokenizer_model("gpt2")
    tokens = tokenizer.convert_ids_to_tokens(range(config.vocab_size))
    tokens[tokens.index("Ā")] = "þÿ"  # the byte 0: without any merge it would not be read as a tokenizer of pairs
    file.add_token_list(tokens)
    file.add_token_types([gguf.TokenType.NORMAL] * (config.vocab_size - 1) + [gguf.TokenType.CONTROL])
    file.add_token_merges(["þ ÿ"])
    for add in (file.add_bos_token_id, file.add_eos_token_id, file.add_pad_token_id):
        add(config.eos_token_id)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, value in model.named_parameters():
        array = value.numpy()
        if count := heads.get(name.split(".")[-2]):
            array = array.reshape(count, 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
        file.add_tensor(names.get_name(name, try_suffixes=(".weight",)), np.ascontiguousarray(array))
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()


def test_a_directory_with_one_gguf_file_is_a_model(speaker, tune, tmp_path):
    (tmp_path / "quantized").mkdir()
    write_gguf(speaker.model, speaker.tokenizer, tmp_path / "quantized" / "tiny.gguf")
    opened, tokenizer = language.open_model(tmp_path / "quantized", "float32")
    assert tokenizer("say it: é<end>")["input_ids"] == speaker.tokenizer("say it: é<end>")["input_ids"]
    for (name, value), (other, expected) in zip(
        opened.named_parameters(), speaker.model.named_parameters(), strict=True
    ):
        assert name == other and torch.equal(value, expected), name
    (said,) = Language(opened, tokenizer, torch.device("cpu")).complete(
        ["a", "long one"], copies=1, most=8, beat=lambda n: None
    )
    (expected,) = speaker.complete(["a", "long one"], copies=1, most=8, beat=lambda n: None)
    assert said == expected
    run = tune("model=quantized", "generations=1")  # goes on as an ordinary model, with safetensors
    assert language.check(run / "start") == language.check(run / "pretrained") == {"use_safetensors": True}


@pytest.mark.parametrize(
    ("keys", "error"),
    [
        ("es.population=7", "es.population=7"),
        ("chunk=3", "chunk=3: must be even"),
        ("mirrored=false", "mirrored=false: needs es.noise=dense"),
        ("es.noise=orthogonal", "must be lowrank or dense for a language model"),
        ("preset=ppo", "preset=ppo"),
        ("data=", "data is missing"),
        ("es.episodes=3", "es.episodes"),
        ("es.rank=40", "es.rank=40: must lie between"),
        ("modules=[qproj]", "modules=qproj: the model has no module of this name with parameters. Did you mean q_proj"),
    ],
)
def test_bad_keys(tune, keys, error):
    with pytest.raises(ConfigError, match=error):
        tune(*keys.split(), "generations=1")


def test_errors_are_one_line(command, tmp_path):
    done = command("llm", "model=nowhere/at-all", f"data={tmp_path}/none.jsonl", "reward=conciseness")
    assert done.returncode == 2 and "cannot be read (No such file or directory)" in done.stderr
    with pytest.raises(CheckpointError, match="no such run directory"):
        llm.main(["export=nothing", "out=x"])
    (tmp_path / "there").mkdir()
    with pytest.raises(ConfigError, match="out=there: exists"):
        llm.main(["export=nothing", "out=there"])


@pytest.mark.parametrize(
    ("keys", "code", "error"),
    [
        ("model=pickled", 3, "weights are pickled only"),
        ("reward=nowhere:fn", 3, "nowhere cannot be imported"),
        ("resume=run", 4, "run/checkpoints"),
        ("reward=mine:letters", 5, "theta is infinite after generation 1"),
    ],
)
def test_exit_codes(tune, tiny, data, command, tmp_path, keys, code, error):
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "pytorch_model.bin").touch()
    (tmp_path / "mine.py").write_text(LETTERS)
    argv = [f"model={tiny}", f"data={data}", "reward=conciseness", *SMALL, "generations=1", "run=other"]
    argv = [a.replace("lr=0.01", "lr=1e42") for a in argv]
    if keys == "resume=run":
        argv = []
        for file in tune("reward=conciseness", "generations=1").glob("checkpoints/*/model.safetensors"):
            file.write_bytes(file.read_bytes()[:-1])
    done = command("llm", *[a for a in argv if a.partition("=")[0] != keys.partition("=")[0]], keys)
    assert done.returncode == code and error in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), *soak((signal.SIGINT, 130))])
def test_a_stopped_run_is_saved_and_goes_on_to_the_same_bits(tune, start, tiny, data, tmp_path, number, code):
    (tmp_path / "mine.py").write_text(LETTERS)
    keys = [f"model={tiny}", f"data={data}", "reward=mine:letters", *SMALL]
    process = start(*keys, "run=stopped", "generations=1000", verb="llm")
    run = tmp_path / "stopped"
    wait_for(lambda: (run / "metrics.jsonl").exists() and len(metrics(run)) >= 2, process)
    process.send_signal(number)
    assert process.wait(timeout=60) == code
    assert "is saved; go on with resume=stopped" in (tmp_path / "out.txt").read_text()
    done = len(metrics(run))
    tune("resume=stopped", f"generations={done + 1}", "reward=mine:letters")
    whole = tune(*keys, f"generations={done + 1}", run="whole")
    assert all(line["update/norm"] > 0 for line in metrics(whole))
    assert model_hash(run) == model_hash(whole)


def test_lines_of_json_end_where_a_line_ends_and_nowhere_else(tmp_path):
    (tmp_path / "d.jsonl").write_text('{"prompt": "a\u2028b"}\n\n{"prompt": "c"}\n')
    assert [row["prompt"] for row in dataset.lines("d.jsonl", "data")] == ["a\u2028b", "c"]
    (tmp_path / "e.jsonl").write_text('{"prompt": "a", "answer": 1}\n')
    with pytest.raises(ConfigError, match="other columns than data=d.jsonl; differing: answer"):
        dataset.read("d.jsonl", "e.jsonl")


def test_the_shipped_data_is_what_the_script_makes(tmp_path):
    import runpy
    from pathlib import Path

    root = Path(__file__).parents[2]
    script = runpy.run_path(str(root / "scripts" / "make_prompts.py"))
    script["main"]([f"out={tmp_path}"])
    for path in (root / "examples" / "data").glob("*.jsonl"):
        assert path.read_text() == (tmp_path / path.name).read_text()
    rows = dataset.lines(str(tmp_path / "countdown-test.jsonl"), "data")
    assert all(len(row["numbers"]) in (3, 4) and 1 <= row["target"] <= 99 for row in rows)


def test_one_completion_on_which_a_reward_raises_is_one_that_is_not_judged():
    rows = [{"prompt": "a"}, {"prompt": "b"}]
    beats = []
    scores = RewardWorker("hostile:raises_on_x")(rows, ["fine", "x"], beats.append)
    assert scores[0] == 1.0 and np.isnan(scores[1])
    with pytest.raises(ValueError, match="no x"):
        RewardWorker("hostile:raises_on_x")(rows, ["x", "x"], beats.append)


@pytest.mark.slow
def test_data_that_have_moved_are_found_again_and_others_are_refused(tune, data, tmp_path):
    run = tune("generations=1", "es.population=2")
    moved = data.rename(tmp_path / "moved.jsonl")
    tune(f"resume={run}", "generations=2", f"data={moved}", "reward=hostile:high_letters")
    assert metrics(run)[-1]["generation"] == 2
    moved.write_text(moved.read_text().replace("say", "tell"))
    with pytest.raises(CheckpointError, match="These differ: data"):
        tune(f"resume={run}", "generations=3", "reward=hostile:high_letters")
