"""Layers of torch whose rows are not the first dimension, and low precision, against each member's explicit weights."""

import copy
import warnings
from contextlib import nullcontext

import pytest
import torch
from test_population import MEMBERS, NETWORKS, Chooses, Masked, Mixing, TimeFirst, build, explicit, tensor
from torch import nn
from torch.func import functional_call
from torch.utils._pytree import tree_flatten

from es_rl import Trainer
from es_rl.errors import EnvError
from es_rl.noise import Perturbation, member_weights
from es_rl.population import forward, perturb
from es_rl.trainer.fitness import batched

N, F, H = 4, 6, 4
BF16 = torch.bfloat16


def leaves(out):
    return [x.detach() for x in tree_flatten(out)[0] if isinstance(x, torch.Tensor)]


def part(x, dim, i, k):
    return x.narrow(dim, i * k, k)


def members_are_right(module, given, dims, outputs, k, *, together, kind="lowrank", cut=None):
    """Compare a call with those of each member: `dims` of inputs (None: for all members) and of `outputs`."""
    alone = copy.deepcopy(module)
    p = Perturbation(kind=kind, sigma=0.2, seed=1)

    def own(i):
        return [x if d is None else part(x, d, i, k) for x, d in zip(given, dims, strict=True)]

    expected = [
        leaves(functional_call(alone, member_weights(alone, i, p), tuple(cut(i) if cut else own(i)))) for i in range(N)
    ]
    with warnings.catch_warnings(), perturb(module, range(N), p) as members:
        warnings.simplefilter("ignore")
        for _ in range(2):
            found = leaves(module(*given))
            assert len(found) == len(outputs) == len(expected[0])
            for y, d, own_ys in zip(found, outputs, zip(*expected, strict=True), strict=True):
                whole = torch.cat(own_ys, d)
                assert y.shape == whole.shape and torch.allclose(y, whole, atol=1e-5)
        assert members.together is together


def sequences(k, steps):
    return torch.randn(steps, N * k, F)


LAYERS = {
    "rnn": lambda: (nn.RNN(F, H, nonlinearity="relu"), [1, 1]),
    "gru": lambda: (nn.GRU(F, H), [1, 1]),
    "lstm of two": (lambda: (nn.LSTM(F, H, num_layers=2, bidirectional=True), [1, 1, 1])),
    "lstm with projections": lambda: (nn.LSTM(F, H, proj_size=3), [1, 1, 1]),
    "encoder layer": lambda: (nn.TransformerEncoderLayer(F, 2, 8), [1]),
    "encoder": lambda: (nn.TransformerEncoder(nn.TransformerEncoderLayer(F, 2, 8), 2, enable_nested_tensor=False), [1]),
}


@pytest.mark.parametrize("kind", ["dense", "lowrank"])
@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("name", LAYERS)
def test_time_first_layers_of_torch(name, k, kind):
    torch.manual_seed(0)
    for steps in (3, N * k):  # as many as rows, by chance
        module, outputs = LAYERS[name]()
        x = sequences(k, steps)
        members_are_right(module.eval(), [x], [1], outputs, k, together="projections" not in name, kind=kind)
        assert all(part.batch_first is False for part in module.modules() if hasattr(part, "batch_first"))


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("proj", [0, 3])
def test_states_of_all_layers_go_in_and_out(k, proj):
    torch.manual_seed(0)
    for batch_first in (False, True):
        module = nn.LSTM(F, H, num_layers=2, proj_size=proj, batch_first=batch_first)
        x = sequences(k, 3).transpose(0, 1 if batch_first else 0).contiguous()
        h, c = torch.randn(2, N * k, proj or H), torch.randn(2, N * k, H)
        d = 0 if batch_first else 1
        members_are_right(
            module, [x, (h, c)], [d, None], [d, 1, 1], k, together=not proj,
            cut=lambda i, x=x, h=h, c=c, d=d: (part(x, d, i, k), (part(h, 1, i, k), part(c, 1, i, k))),
        )  # fmt: skip


class Keeps(nn.Module):
    """A policy that is given its state and returns the next one."""

    def __init__(self, proj):
        super().__init__()
        self.body, self.layer = nn.Linear(F, F), nn.LSTM(F, H, num_layers=2, proj_size=proj, batch_first=True)
        self.head = nn.Linear(proj or H, 2)

    def forward(self, x, state=None):
        y, state = self.layer(self.body(x)[:, None], state)
        return self.head(y[:, 0]), state


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("proj", [0, 3])
def test_a_module_with_recurrent_layers_takes_and_gives_their_states(k, proj):
    torch.manual_seed(0)
    module, x = Keeps(proj), torch.randn(N * k, F)
    h, c = torch.randn(2, N * k, proj or H), torch.randn(2, N * k, H)
    members_are_right(module, [x], [0], [0, 1, 1], k, together=not proj)
    members_are_right(
        module, [x, (h, c)], [], [0, 1, 1], k, together=not proj,
        cut=lambda i: (part(x, 0, i, k), (part(h, 1, i, k), part(c, 1, i, k))),
    )  # fmt: skip


def test_masks_and_memories_of_time_first_transformers():
    torch.manual_seed(0)
    for steps in (3, 2 * N):
        x, memory = sequences(2, steps), sequences(2, 5)
        causal = nn.Transformer.generate_square_subsequent_mask(steps)
        padding = torch.rand(2 * N, steps) < 0.3
        padding[:, 0] = False
        heads = torch.randn(2 * N * 2, steps, steps)
        encoder = LAYERS["encoder"]()[0].eval()
        members_are_right(encoder, [x, causal, padding], [1, None, 0], [1], 2, together=True)
        decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(F, 2, 8), 1).eval()
        members_are_right(decoder, [x, memory], [1, 1], [1], 2, together=True)
        members_are_right(nn.Transformer(F, 2, 1, 1, 8).eval(), [memory, x], [1, 1], [1], 2, together=True)
        attention = nn.MultiheadAttention(F, 2)
        members_are_right(
            attention, [x, x, x, None, True, heads], [], [1, 0], 2, together=True,
            cut=lambda i, x=x, m=heads: (*[part(x, 1, i, 2)] * 3, None, True, part(m, 0, i, 4)),
        )  # fmt: skip


def test_sequences_without_rows_are_refused():
    packed = nn.utils.rnn.pack_padded_sequence(torch.randn(3, 4, F), torch.tensor([3, 2, 2, 1]))
    inside = nn.Sequential(nn.GRU(F, H))
    for module, x, text in [
        (nn.GRU(F, H), torch.randn(4, F), "GRU computes members for a batch of sequences only"),
        (nn.GRU(F, H), packed, "GRU computes members for a batch of sequences only"),
        (inside, packed, "packed sequences cannot be divided among members"),
    ]:
        with perturb(module, range(4), Perturbation()), pytest.raises(EnvError, match=text):
            module(x)


class Topics(nn.Module):
    """A classifier of texts, as in torch's tutorial: tokens of all texts in a row, and where each begins."""

    def __init__(self, **options):
        super().__init__()
        self.bag, self.out = nn.EmbeddingBag(9, 7, **options), nn.Linear(7, 3)

    def forward(self, *given):
        return self.out(self.bag(*given))


@pytest.mark.parametrize("kind", ["dense", "lowrank"])
@pytest.mark.parametrize("padding", [None, 2, -1])
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags_of_tokens(mode, padding, kind):
    torch.manual_seed(0)
    for module in (Topics(mode=mode, padding_idx=padding), nn.EmbeddingBag(9, 7, mode=mode, padding_idx=padding)):
        for k in (1, 3):
            members_are_right(module, [torch.randint(9, (N * k, 5))], [0], [0], k, together=True, kind=kind)


@pytest.mark.parametrize("kind", ["dense", "lowrank"])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("mode", ["sum", "max"])
def test_bags_with_offsets(mode, last, kind):
    torch.manual_seed(0)
    for module in (
        Topics(mode=mode, include_last_offset=last),
        nn.EmbeddingBag(9, 7, mode=mode, include_last_offset=last),
    ):
        for k, begins in ((1, [0, 3, 3, 9]), (2, [0, 0, 4, 5, 9, 9, 11, 12])):
            ends, tokens, weights = [*begins, 12], torch.randint(9, (12,)), torch.randn(12)

            def own(i, k=k, ends=ends, tokens=tokens, weights=weights):
                first, end = ends[i * k], ends[(i + 1) * k]
                offsets = torch.tensor(ends[i * k : (i + 1) * k + last]) - first
                return (tokens[first:end], offsets, *([weights[first:end]] if mode == "sum" else []))

            given = [tokens, torch.tensor(ends if last else begins), *([weights] if mode == "sum" else [])]
            if tokens[0] >= 0 and all(len(own(i)[0]) for i in range(N)):
                members_are_right(module, given, [], [0], k, together=True, kind=kind, cut=own)
    members_are_right(
        nn.EmbeddingBag(9, 7, max_norm=1.0), [torch.randint(9, (N, 5))], [0], [0], 1, together=False, kind=kind
    )


def low(module, x, sigma, kind, where):
    """Return outputs of all members at once, each alone and of theta, in low precision, and the population."""
    p = Perturbation(kind=kind, sigma=sigma, seed=3)
    context = torch.autocast("cpu", BF16) if where == "autocast" else nullcontext()
    if where == "module":
        module, x = module.to(BF16), x.to(BF16) if x.is_floating_point() else x
    with context, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        expected, base = explicit(module, MEMBERS, x, 3, p), tensor(module(x))
        with perturb(module, MEMBERS, p) as members:
            y = tensor(module(x))
    return y.float(), expected.float(), base.float(), members


# torch itself has no bilinear layer of two types; the choice of an expert jumps when a number is rounded
ROUNDED = sorted({*NETWORKS} - {"bilinear", "mixtral"})


@pytest.mark.parametrize("kind", ["dense", "lowrank"])
@pytest.mark.parametrize("name", ROUNDED)
def test_autocast_is_not_mistaken_for_rows_that_mix(name, kind):
    module, inputs, rules = build(name)
    try:
        with torch.random.fork_rng(), torch.autocast("cpu", BF16), torch.no_grad():
            module(inputs(3 * len(MEMBERS)))
    except RuntimeError as error:  # oneDNN has no LSTM of low precision for every processor
        pytest.skip(f"torch cannot compute it on this processor: {error}")
    for sigma in (0.1, 0.001):
        forward._VERDICTS.pop(module, None)
        y, expected, base, members = low(module, inputs(3 * len(MEMBERS)), sigma, kind, "autocast")
        assert members.together is rules
        error, effect = (y - expected).abs().max(), (base - expected).abs().max()
        assert error <= 0.025 * expected.abs().max()
        assert sigma < 0.1 or error <= 0.1 * effect  # members that all had the same weights would be as far as theta


class Inside(nn.Module):
    """Switches autocast on by itself."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 4))

    def forward(self, x):
        with torch.autocast("cpu", BF16):
            return self.net(x)


@pytest.mark.parametrize("kind", ["dense", "lowrank"])
@pytest.mark.parametrize("where", ["inside", "module"])
def test_modules_of_low_precision(where, kind):
    torch.manual_seed(0)
    module = Inside() if where == "inside" else build("mlp")[0]
    y, expected, base, members = low(module, torch.randn(3 * len(MEMBERS), 5), 0.1, kind, where)
    assert members.together and (y - expected).abs().max() <= 0.1 * (base - expected).abs().max()


@pytest.mark.parametrize("make", [Mixing, TimeFirst, Chooses, Masked])
@pytest.mark.parametrize("sigma", [0.5, 0.0005])
def test_rows_that_mix_are_found_under_autocast_too(make, sigma):
    torch.manual_seed(1)
    module, p = make(), Perturbation(kind="lowrank", sigma=sigma * (1000 if make is Chooses else 1))
    x = torch.randn(4, 4, 3) if make in (TimeFirst, Chooses) else torch.randn(4, 3)
    with torch.autocast("cpu", BF16), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module(x)  # torch keeps theta in low precision from now on
        with perturb(module, range(4), p) as members:
            y = module(x)
        assert not members.together
        expected = explicit(module, range(4), x, 1, p)
        finite = expected.isfinite()
        assert torch.allclose(y[finite].float(), expected[finite].float(), atol=0.02)


def test_a_trainer_under_autocast_scores_members_and_not_theta():
    torch.manual_seed(0)
    x = torch.randn(16, 4)

    def fitness(model):
        return -float(model(x).float().square().mean())

    @batched
    def many(model, n):
        return -model(x.repeat(n, 1)).float().reshape(n, -1).square().mean(1)

    found = []
    for judge in (fitness, many):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        with torch.autocast("cpu", BF16):
            model(x)
            (record,) = Trainer(model, judge, population=8, sigma=0.3, lr=0.1, seed=0).train(1)
        found.append([record[f"fitness/{name}"] for name in ("min", "mean", "max")])
    assert found[0][2] - found[0][0] > 0.05
    assert torch.allclose(torch.tensor(found[0]), torch.tensor(found[1]), rtol=0.05)
