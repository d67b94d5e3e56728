"""One forward pass of many members against each member's explicit weights in the module by itself."""

import copy
import functools
import os
import random
import re
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from torch.nn.utils import prune

from es_rl import population
from es_rl.errors import ConfigError, EnvError
from es_rl.noise import KINDS, Perturbation, member_weights
from es_rl.population import forward, rules
from es_rl.population.forward import Population, perturb

MEMBERS = [0, 1, 2, 3, 7, 12]


class Conv(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv1d(3, 8, 3, padding=1, bias=False), nn.Conv2d(1, 4, 3, stride=2)
        self.norm, self.batch = nn.GroupNorm(2, 8), nn.BatchNorm2d(4)
        self.out = nn.Linear(4 * 3 * 4, 5)

    def forward(self, x):  # (rows, 3, 10)
        y = F.relu(self.norm(self.one(x)))[:, None]
        return self.out(self.batch(self.two(y)).flatten(1))


class Tied(nn.Module):
    """A language model whose output matrix is that of its embedding, with learnt positions and an RMS norm by hand."""

    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(11, 8), nn.Linear(8, 11, bias=False)
        self.head.weight = self.embedding.weight
        self.positions = nn.Parameter(torch.randn(1, 20, 8))
        self.gain = nn.Parameter(torch.ones(8))
        self.rms = nn.RMSNorm(8)

    def forward(self, ids):  # (rows, T)
        x = self.embedding(ids) + self.positions[:, : ids.shape[1]]
        x = self.gain * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6).to(self.gain.dtype))
        return self.head(self.rms(x))


class Places(nn.Module):
    """Positions as a vector as long as the rows may be, a constant table through a layer, a parameter with a constant."""

    def __init__(self):
        super().__init__()
        self.words, self.places, self.mix = nn.Embedding(11, 8), nn.Embedding(6, 8), nn.Linear(8, 8)
        self.register_buffer("table", torch.randn(6, 8))
        self.gain = nn.Parameter(torch.ones(8))

    def forward(self, ids):  # (rows, 6)
        x = self.words(ids) + self.places(torch.arange(6, device=ids.device)) * (self.gain.data + self.table[0])
        return (
            self.mix(x) * (self.gain * self.table.reshape((6, 8))) + self.gain * torch.cat([self.table, self.table])[:6]
        )


class Sentence(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.gru, self.out = nn.Embedding(11, 6), nn.GRU(6, 7, batch_first=True), nn.Linear(7, 3)

    def forward(self, ids):
        return self.out(self.gru(self.embedding(ids))[0][:, -1])


class Dropped(Sentence):
    """A layer with an option that has no rule."""

    def __init__(self):
        super().__init__()
        self.gru, self.out = nn.LSTM(6, 7, proj_size=3, batch_first=True), nn.Linear(3, 3)


class Last(nn.Module):
    """What a recurrent layer says last, and its last state."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        y, state = self.layer(x)
        h = state[0] if isinstance(state, tuple) else state
        return torch.cat([y[:, -1], h.transpose(0, 1).flatten(1)], -1)


class TimeFirstInside(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.out = nn.GRU(5, 6), nn.Linear(6, 3)

    def forward(self, x):  # (rows, T, 5)
        return self.out(self.layer(x.transpose(0, 1))[0][-1])


class Cells(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru, self.lstm, self.rnn = nn.GRUCell(5, 6), nn.LSTMCell(6, 4), nn.RNNCell(4, 3)

    def forward(self, x):  # (rows, 3, 5)
        h, state, last = torch.zeros(len(x), 6), None, None
        for t in range(x.shape[1]):
            h = self.gru(x[:, t], h)
            state = self.lstm(h, state)
            last = self.rnn(state[0], last)
        return torch.cat([last, state[1]], -1)


class GivenStates(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.begin = nn.LSTM(5, 6, batch_first=True), nn.Linear(5, 6)

    def forward(self, x):
        h = self.begin(x[:, 0])[None]
        return self.layer(x, (h, torch.ones(1, len(x), 6)))[0][:, -1]


class LearntStates(nn.Module):
    """Recurrent layers that begin with parameters, in each of the usual ways."""

    def __init__(self):
        super().__init__()
        self.gru, self.lstm, self.cell = nn.GRU(5, 6, 3, batch_first=True), nn.LSTM(6, 4), nn.GRUCell(4, 3)
        self.h, self.c, self.last = (nn.Parameter(torch.randn(*s)) for s in ((3, 1, 6), (4,), (3,)))

    def forward(self, x):  # (rows, 4, 5)
        y, _ = self.gru(x, self.h.expand(-1, x.shape[0], -1).contiguous())
        y, _ = self.lstm(
            y.transpose(0, 1), (self.c[None, None].expand(1, len(x), 4), self.c[None].expand(len(x), -1)[None])
        )
        return self.cell(y[-1], self.last.expand(len(x), -1))


class Gaussian(nn.Module):
    """A deviation that is a parameter, as in many policies, and vectors as long as others."""

    def __init__(self):
        super().__init__()
        self.mean, self.log_std = nn.Linear(5, 3), nn.Parameter(torch.randn(3))

    def forward(self, x):
        around = torch.distributions.Normal(self.mean(x), self.log_std.exp())
        same = self.log_std.expand_as(around.mean) + torch.broadcast_to(self.log_std, around.mean.shape)
        return torch.cat([around.log_prob(x[:, :3]), around.stddev, same], -1)


class Bilinear(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix, self.other = nn.Bilinear(5, 4, 3), nn.Linear(5, 4)

    def forward(self, x):
        return self.mix(x, self.other(x))


class Einsum(nn.Module):
    def __init__(self):
        super().__init__()
        self.w, self.v = nn.Parameter(torch.randn(3, 5, 3)), nn.Parameter(torch.randn(3, 3))

    def forward(self, x):  # (rows, 4, 5)
        y = torch.einsum("btd,hde->bhte", x, self.w)
        return torch.einsum("bhte,he->bt", y, self.v)


class ClassToken(nn.Module):
    """As in a vision transformer: one vector for all rows before each sequence, and places that are added."""

    def __init__(self):
        super().__init__()
        self.token, self.places = nn.Parameter(torch.randn(1, 1, 8)), nn.Parameter(torch.randn(1, 8, 8))
        self.mask, self.out = nn.Parameter(torch.randn(1, 8)), nn.Linear(8, 3)

    def forward(self, x):  # (rows, 6, 8)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x, self.mask.repeat(len(x), 1)[:, None]], dim=1)
        return self.out((x + self.places).tanh()).flatten(1)


class Products(nn.Module):
    """Parameters used by hand in every way that has a rule."""

    def __init__(self):
        super().__init__()
        self.w, self.v, self.b = (nn.Parameter(torch.randn(*s)) for s in ((5, 6), (6, 4), (6,)))
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, x):  # (rows, 5)
        y = torch.addmm(self.b, x, self.w) * self.scale.exp()
        y = y @ self.v.t().t() + (1.0 + self.b[:4]) - self.scale
        return 2.0 - torch.maximum(self.scale, y) / (self.scale.square() + 1.0)


class InPlace(nn.Module):
    """Adds to its rows in place, and multiplies parameters from the left, with vectors and with one another."""

    def __init__(self):
        super().__init__()
        self.places, self.gain, self.query = (nn.Parameter(torch.randn(*s)) for s in ((1, 4, 5), (5,), (5,)))
        self.left, self.a, self.b = (nn.Parameter(torch.randn(*s)) for s in ((3, 4), (5, 3), (3, 5)))

    def forward(self, x):  # (rows, 4, 5)
        y = x.clone()
        y += self.places
        y *= self.gain
        y = y.sub_(self.gain).div_(1.5) + (y @ self.query)[..., None]
        return (self.left @ y) @ (self.a @ self.b) + torch.matmul(y[:, :3], self.query[:, None])


def llama():
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=31, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=32,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def gpt2():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=31, n_embd=16, n_layer=2, n_head=4, n_positions=32)
    return transformers.GPT2LMHeadModel(config)


SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24, "vocab_size": 31}


def of_transformers(name, **more):
    """A small model of Hugging Face, by the name of its class."""

    def make():
        transformers = pytest.importorskip("transformers")
        kind = getattr(transformers, name)
        model = kind(kind.config_class(**more))
        model.config.use_cache = False
        return Logits(model)

    return make


class Logits(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        out = self.model(x)
        return out.logits if hasattr(out, "logits") else out.last_hidden_state


def ids(vocabulary):
    return lambda rows: torch.randint(vocabulary, (rows, 6))


def numbers(*shape):
    return lambda rows: torch.randn(rows, *shape)


def encoder():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu")
    return nn.TransformerEncoder(layer, 2)


# name → the module, its input, whether all of it has rules
def computed(reparametrize, module, *args, **kwargs):
    """A module whose weight is computed by a hook of its own."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", FutureWarning)  # torch has newer ways, but these are still used
        module = reparametrize(module, *args, **kwargs)
        module(torch.zeros(1, 5))
    return module


NETWORKS = {
    "mlp": (
        lambda: nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 6, bias=False), nn.LayerNorm(6, bias=False), nn.Linear(6, 1)),
        numbers(5),
        True,
    ),
    "mlp on sequences": (lambda: nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)), numbers(4, 5), True),
    "convolutional": (Conv, numbers(3, 10), True),
    "one filter": (lambda: nn.Sequential(nn.Conv2d(4, 1, 3), nn.Flatten()), numbers(4, 5, 5), True),
    "places": (Places, ids(11), True),
    "depthwise": (lambda: nn.Conv1d(4, 8, 3, groups=4), numbers(4, 9), True),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2, padding=1), numbers(4, 5, 5), True),
    "three dimensions": (lambda: nn.Conv3d(2, 4, 2), numbers(2, 4, 4, 3), True),
    "transposed": (lambda: nn.Sequential(nn.ConvTranspose1d(4, 6, 3, stride=2, groups=2), nn.Tanh(), nn.ConvTranspose1d(6, 2, 3)), numbers(4, 5), True),
    "transposed in two": (lambda: nn.ConvTranspose2d(3, 4, 3, stride=2, output_padding=1), numbers(3, 4, 4), True),
    "instance norm": (lambda: nn.Sequential(nn.Conv1d(3, 6, 3), nn.InstanceNorm1d(6, affine=True)), numbers(3, 9), True),
    "prelu": (lambda: nn.Sequential(nn.Linear(5, 6), nn.PReLU(), nn.Linear(6, 4), nn.PReLU(4)), numbers(5), True),
    "bilinear": (Bilinear, numbers(5), True),
    "einsum": (Einsum, numbers(4, 5), True),
    "class token": (ClassToken, numbers(6, 8), True),
    "in place": (InPlace, numbers(4, 5), True),
    "weight norm": (lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(5, 6)), nn.Tanh()), numbers(5), True),
    "weight norm of old": (lambda: computed(nn.utils.weight_norm, nn.Linear(5, 6)), numbers(5), True),
    "spectral norm of old": (lambda: computed(nn.utils.spectral_norm, nn.Linear(5, 6)), numbers(5), True),
    "pruned": (lambda: computed(prune.random_unstructured, nn.Linear(5, 6), "weight", amount=0.4), numbers(5), True),
    "rnn": (lambda: Last(nn.RNN(5, 6, nonlinearity="relu", batch_first=True)), numbers(4, 5), True),
    "lstm": (lambda: Last(nn.LSTM(5, 6, num_layers=2, batch_first=True)), numbers(4, 5), True),
    "both directions": (lambda: Last(nn.GRU(5, 6, num_layers=2, bidirectional=True, batch_first=True)), numbers(4, 5), True),
    "no bias": (lambda: Last(nn.LSTM(5, 6, bias=False, batch_first=True)), numbers(4, 5), True),
    "time first inside": (TimeFirstInside, numbers(4, 5), True),
    "cells": (Cells, numbers(3, 5), True),
    "given states": (GivenStates, numbers(4, 5), True),
    "learnt states": (LearntStates, numbers(4, 5), True),
    "gaussian": (Gaussian, numbers(5), True),
    "tied embedding": (Tied, ids(11), True),
    "gru": (Sentence, ids(11), True),
    "dropped": (Dropped, ids(11), False),
    "transformer encoder": (encoder, numbers(7, 8), True),
    "products": (Products, numbers(5), True),
    "llama": (llama, ids(31), True),
    "gpt2": (gpt2, ids(31), True),
    "bert": (of_transformers("BertModel", **SMALL, max_position_embeddings=32, type_vocab_size=4), ids(31), True),
    "vit": (of_transformers("ViTModel", **{**SMALL, "image_size": 8, "patch_size": 4}), numbers(3, 8, 8), True),
    "opt": (of_transformers("OPTForCausalLM", hidden_size=16, num_hidden_layers=2, num_attention_heads=4, ffn_dim=24, vocab_size=31, max_position_embeddings=32, word_embed_proj_dim=16), ids(31), True),
    "mixtral": (of_transformers("MixtralForCausalLM", **SMALL, num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2), ids(31), True),
}  # fmt: skip


def build(name):
    torch.manual_seed(0)
    make, inputs, rules = NETWORKS[name]
    module = make().eval()
    for value in module.parameters():
        if value.ndim < 2:
            value.data += 0.3 * torch.randn_like(value)
    return module, inputs, rules


def tensor(out):
    return out if isinstance(out, torch.Tensor) else out.logits


def explicit(module, members, x, rows, p):
    """One member after the other, each with its own weights, in a module that nobody has perturbed."""
    for part in module.modules():  # what hooks have computed cannot be copied with its gradient
        vars(part).update({k: v.detach() for k, v in vars(part).items() if isinstance(v, torch.Tensor)})
    module = copy.deepcopy(module)
    for part in module.modules():
        vars(part).pop("forward", None)
    parts = [
        tensor(functional_call(module, member_weights(module, m, p), (x[i * rows : (i + 1) * rows],)))
        for i, m in enumerate(members)
    ]
    return torch.cat(parts).detach()


def assert_close(got, expected):
    assert got.shape == expected.shape
    assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("kind", ["dense", "lowrank"])
@pytest.mark.parametrize(("rank", "rows"), [(1, 3), (3, 1)])
def test_every_member_is_the_module_with_its_explicit_weights(name, kind, rank, rows):
    module, inputs, rules = build(name)
    p = Perturbation(kind=kind, rank=rank, sigma=0.1, seed=3, generation=5)
    x = inputs(len(MEMBERS) * rows)
    before, state = tensor(module(x)), copy.deepcopy(module.state_dict())
    expected = explicit(module, MEMBERS, x, rows, p)
    with warnings.catch_warnings(record=True) as caught, perturb(module, MEMBERS, p) as members:
        warnings.simplefilter("always")
        y = tensor(module(x))
        assert members.together is rules, [str(w.message) for w in caught]
        assert not y.requires_grad
        assert_close(y, expected)
        members.select([1, 4])
        pick = torch.tensor([m * rows + r for m in (1, 4) for r in range(rows)])
        assert_close(tensor(module(x[pick])), expected[pick])
        members.select(range(len(MEMBERS)))
        assert_close(tensor(module(x)), expected)
    assert torch.equal(tensor(module(x)), before)
    assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())
    assert not any("forward" in vars(part) for part in module.modules())


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_noise_with_frozen_vectors_and_without(kind):
    module, inputs, _ = build("mlp")
    for frozen in (False, True):
        p = Perturbation(kind=kind, rank=2, sigma=0.2, block=4, freeze_vectors=frozen)
        x = inputs(len(MEMBERS))
        with perturb(module, MEMBERS, p):
            assert_close(module(x), explicit(module, MEMBERS, x, 1, p))


def test_no_product_of_factors_is_ever_formed(monkeypatch):
    def forbidden(self):
        raise AssertionError("a bᵀ was formed")

    for name in ("mlp", "convolutional", "transformer encoder", "places", "llama", "gpt2"):
        module, inputs, _ = build(name)
        p, x = Perturbation(kind="lowrank", rank=2, sigma=0.1), inputs(len(MEMBERS))
        expected = explicit(module, MEMBERS, x, 1, p)
        with monkeypatch.context() as patched, perturb(module, MEMBERS, p) as members:
            patched.setattr(rules.LowRank, "explicit", forbidden)
            assert_close(tensor(module(x)), expected)
            assert members.together


def test_masks_and_causality_of_attention():
    torch.manual_seed(0)
    layer, p = nn.MultiheadAttention(8, 2, batch_first=True), Perturbation(kind="lowrank", sigma=0.3)
    x, memory, padding = torch.randn(4, 5, 8), torch.randn(4, 6, 8), torch.rand(4, 6) < 0.3
    causal = nn.Transformer.generate_square_subsequent_mask(5)
    alone = copy.deepcopy(layer)
    with perturb(layer, [4, 5], p):
        self_attended, weights = layer(x, x, x, attn_mask=causal)
        attended, _ = layer(x, memory, memory, key_padding_mask=padding)
    for i, m in enumerate((4, 5)):
        own, at = member_weights(alone, m, p), slice(2 * i, 2 * i + 2)
        y, w = functional_call(alone, own, (x[at], x[at], x[at]), {"attn_mask": causal})
        assert_close(self_attended[at], y.detach())
        assert_close(weights[at], w.detach())
        y, _ = functional_call(alone, own, (x[at], memory[at], memory[at]), {"key_padding_mask": padding[at]})
        assert_close(attended[at], y.detach())


class Mixing(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        y = self.layer(x)
        return y - y.mean(0)


class TimeFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x):  # (rows, T, 3), with as many steps as rows
        return self.layer(x.transpose(0, 1)).transpose(0, 1)


class Chooses(TimeFirst):
    def forward(self, x):
        return super().forward(x).argmax(-1)


@pytest.mark.parametrize("make", [Mixing, TimeFirst, Chooses])
@pytest.mark.parametrize("sigma", [0.5, 0.0005])
def test_a_module_that_mixes_rows_or_moves_them_is_computed_member_by_member(make, sigma):
    torch.manual_seed(1)
    module, x, p = (
        make(),
        torch.randn(4, 4, 3),
        Perturbation(kind="lowrank", sigma=sigma * (1000 if make is Chooses else 1)),
    )
    forward._WARNED.clear()
    expected = "mixes its rows.*: its members are computed one"
    with pytest.warns(UserWarning, match=expected), perturb(module, range(4), p):
        assert_close(module(x), explicit(module, range(4), x, 1, p))
    with perturb(module, range(2, 6), p):  # and ever after
        assert_close(module(x), explicit(module, range(2, 6), x, 1, p))


class Alone(nn.Module):
    """Parameters normalised, and multiplied from the left."""

    def __init__(self):
        super().__init__()
        self.w, self.v = nn.Parameter(torch.randn(3, 3)), nn.Parameter(torch.randn(3))

    def forward(self, x):
        return (
            F.linear(x, F.rms_norm(self.w, (3,))) + F.layer_norm(self.v, (3,)) + torch.addmm(self.v, self.w, self.w)[0]
        )


def test_functions_of_parameters_alone_are_not_taken_for_theta():
    module, x = Alone(), torch.randn(4, 3)
    for kind in ("dense", "lowrank"):
        for _ in range(2):
            with perturb(module, range(4), Perturbation(kind=kind, sigma=0.01)):
                assert_close(module(x), explicit(module, range(4), x, 1, Perturbation(kind=kind, sigma=0.01)))


def test_hooks_of_the_module_are_called_once():
    module, inputs, _ = build("gru")
    x, p = inputs(4), Perturbation(sigma=0.3)
    expected = 2 * explicit(module, range(4), x, 1, p)
    module.register_forward_hook(lambda module, args, out: 2 * out)
    with perturb(module, range(4), p):
        assert_close(module(x), expected)


def test_what_has_no_rule_is_named_once():
    forward._WARNED.clear()
    module, inputs, _ = build("dropped")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            with perturb(module, range(4), Perturbation()):
                module(inputs(4))
    (text,) = [str(w.message) for w in caught if "oneDNN" not in str(w.message)]
    assert (
        "Dropped has a recurrent layer with dropout or projections: its members are computed one after the other"
        in text
    )


def test_the_module_is_itself_again_even_after_an_error():
    module, inputs, _ = build("transformer encoder")
    x = inputs(2)
    before = module(x)
    with pytest.raises(RuntimeError, match="boom"), perturb(module, [0, 1], Perturbation()):
        raise RuntimeError("boom")
    with pytest.raises(RuntimeError), perturb(module, [0, 1], Perturbation(kind="lowrank")):
        module(torch.randn(2, 7, 9))
    assert torch.equal(module(x), before)


def test_members_in_turn_leave_no_trace_in_buffers():
    """The power iteration of a spectral norm goes on in each forward: from the same vectors for every member."""
    torch.manual_seed(0)
    module = nn.utils.parametrizations.spectral_norm(nn.Linear(5, 6))
    alone, p, x = copy.deepcopy(module), Perturbation(kind="lowrank", sigma=0.1), torch.randn(12, 5)
    with perturb(module, range(4), p) as members:
        first, again = module(x), module(x)
        assert not members.together
    assert torch.equal(first, again)
    assert all(torch.equal(value, alone.state_dict()[name]) for name, value in module.state_dict().items())
    for i in range(4):
        one = copy.deepcopy(alone)
        one.load_state_dict(member_weights(alone, i, p), strict=False)
        assert_close(first[3 * i : 3 * i + 3], one(x[3 * i : 3 * i + 3]).detach())


def test_batch_norm_in_training_mode_is_refused():
    module = Conv().train()
    expected = r"batch is a BatchNorm2d in training mode.*rows of different members together"
    with pytest.raises(EnvError, match=expected), perturb(module, [0, 1], Perturbation()):
        pass


def test_a_rank_that_a_matrix_cannot_have_is_refused():
    module = nn.Linear(4, 3)
    for rank in (0, 4):
        p = Perturbation(kind="lowrank", rank=rank)
        with pytest.raises(ConfigError, match=rf"es.rank={rank}: .* weight is 3 × 4"), perturb(module, [0, 1], p):
            pass
        with pytest.raises(ConfigError, match=f"es.rank={rank}"):
            member_weights(module, 0, p)


def test_a_batch_that_is_no_multiple_of_the_members_is_refused():
    module, inputs, _ = build("mlp")
    with perturb(module, range(4), Perturbation()):
        with pytest.raises(EnvError, match="a batch of 6 rows for 4 members"):
            module(inputs(6))
        assert torch.isfinite(module(inputs(8))).all()


MEMORY = """
import sys, torch
from pathlib import Path
from torch import nn
from es_rl.noise import Perturbation
from es_rl.population import perturb
torch.set_num_threads(1)
members = int(sys.argv[1])
layers = [part for _ in range(3) for part in (nn.Linear(256, 256), nn.Tanh())]
module, x = nn.Sequential(*layers).requires_grad_(False), torch.randn(members, 256)
with perturb(module, range(4), Perturbation(kind="lowrank")):  # what the first call loads
    module(x[:8])
def peak(run):
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    run()
    return 1024 * int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
def population():
    with perturb(module, range(members), Perturbation(kind="lowrank")):
        for _ in range(3):
            module(x)
module(x)
plain = peak(lambda: module(x))
print(peak(population) - plain, members * 3 * (256 + 256 + 256) * 4)
"""


@pytest.mark.slow
def test_the_memory_of_4096_members_is_that_of_their_factors():
    freed_at_once = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, "4096"], env=freed_at_once, capture_output=True, text=True, check=True
    )
    extra, factors = map(int, done.stdout.split())
    assert factors / 2 < extra < 1.2 * factors  # dense: 3.2 GB


class Writes(nn.Module):
    """Changes what it is given."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x):
        x += 1.0
        return self.layer(x)


class Masked(nn.Module):
    """Mixes its rows, and hides it behind an infinity."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        y = self.layer(x)
        y = y - y.mean(0)
        return torch.where(torch.arange(3) == 0, -torch.inf, y)


def alone(module, x, p):
    rows = [functional_call(module, member_weights(module, i, p), (x[i : i + 1].clone(),)) for i in range(len(x))]
    return torch.cat(rows)


@pytest.mark.parametrize("kind", [Writes, Masked])
def test_the_first_call_of_a_module_is_as_right_as_the_others(kind):
    module, p = kind().requires_grad_(False), Perturbation(sigma=0.3)
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    expected = alone(module, x, p)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(2):
            with population.perturb(module, range(4), p) as perturbed:
                assert torch.allclose(module(x.clone()), expected, atol=1e-5)
                assert perturbed.together is (kind is Writes)


@pytest.mark.parametrize("how", [{"kdim": 3, "vdim": 5}, {"add_bias_kv": True}, {"add_zero_attn": True}])
def test_an_attention_without_a_rule_is_computed_member_by_member(how):
    module, p = nn.MultiheadAttention(4, 2, batch_first=True, **how).requires_grad_(False), Perturbation(sigma=0.3)
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(4, 5, n, generator=generator) for n in (4, how.get("kdim", 4), how.get("vdim", 4)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with population.perturb(module, range(4), p):
            together = module(q, k, v)[0]
    for i in range(4):
        one = slice(i, i + 1)
        own = functional_call(module, member_weights(module, i, p), (q[one], k[one], v[one]))[0]
        assert torch.allclose(together[one], own, atol=1e-5)


def test_a_layer_that_comes_twice_is_left_as_it_was():
    layer = nn.Linear(4, 4)
    module = nn.Sequential(nn.Linear(6, 4), nn.Sequential(layer, nn.Tanh(), layer)).requires_grad_(False)
    p, x = Perturbation(sigma=0.3), torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    members = [copy.deepcopy(module) for _ in range(4)]
    for i, member in enumerate(members):
        member.load_state_dict(member_weights(module, i, p), strict=False)
    expected = torch.cat([member(x[i : i + 1]) for i, member in enumerate(members)])
    before = list(module.parameters())
    with perturb(module, range(4), p):
        for _ in range(3):
            assert torch.allclose(module(x), expected, atol=1e-5)
    assert all(a is b for a, b in zip(module.parameters(), before, strict=True))


def test_a_forward_of_the_instances_own_is_there_afterwards():
    module = nn.Linear(3, 2)
    attention = nn.MultiheadAttention(4, 2)
    own = attention.forward = functools.partial(attention.forward, need_weights=False)
    inner = nn.Sequential(module)
    plain = inner.forward
    inner.forward = lambda x: 2 * plain(x)
    for _ in range(2):
        with perturb(inner, range(2), Perturbation(sigma=0.0)):
            y = inner(torch.ones(2, 3))
        assert torch.allclose(y, 2 * module(torch.ones(2, 3)))
    with perturb(attention, range(2), Perturbation(sigma=0.1)):
        assert attention.forward is not own
    assert attention.forward is own


class Speaks(nn.Module):
    """What is asked of it, of one parameter that is used where there is no rule."""

    def __init__(self, say):
        super().__init__()
        self.weight, self._say = nn.Parameter(torch.ones(3)), say

    def forward(self, x):
        return self._say(x, torch.sort(self.weight).values)


@pytest.mark.parametrize(
    ("say", "what"),
    [
        (lambda x, w: torch.distributions.Normal(x * w, 1.0), "a Normal"),
        (lambda x, w: (x * w, (x * w).mean()), "a tensor of shape ()"),
        (lambda x, w: (x * w).repeat(2, 1), "a tensor of shape (4, 3)"),
    ],
)
def test_what_cannot_be_joined_is_refused(say, what):
    module = Speaks(say)
    message = re.escape(f"Speaks returns {what} for the rows of one member")
    with perturb(module, range(4), Perturbation(sigma=0.1)), pytest.raises(EnvError, match=message):
        module(torch.randn(8, 3))
    same = Speaks(lambda x, w: {"y": x * w, "kind": "same", "scale": torch.tensor(2.0)})
    with perturb(same, range(4), Perturbation(sigma=0.1)):
        out = same(torch.randn(8, 3))
    assert out["y"].shape == (8, 3) and (out["kind"], out["scale"]) == ("same", 2.0)


def test_a_parameter_that_is_held_in_a_list_too_is_each_members():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(7, 4)
            self._out = [self.embed.weight]

        def forward(self, x):
            return nn.functional.linear(torch.erf(self.embed(x)), self._out[0])

    module, x, p = Tied(), torch.arange(6) % 7, Perturbation(sigma=0.5, seed=2)
    kept = module.embed.weight.detach().clone()
    with perturb(module, range(3), p) as members:
        y = module(x)
        assert members.together
    for member in range(3):
        weight = member_weights(module, member, p)["embed.weight"]
        expected = torch.erf(weight[x[2 * member : 2 * member + 2]]) @ weight.T
        assert torch.allclose(y[2 * member : 2 * member + 2], expected, atol=1e-5)
    assert torch.equal(module.embed.weight, kept)


def test_members_draw_alike_from_every_generator():
    class Draws(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, x):
            return x * 0 + torch.sort(self.weight).values * 0 + random.random() + np.random.random() + torch.rand(())  # noqa: NPY002

    module = Draws()
    with perturb(module, range(4), Perturbation(sigma=0.1)):
        y = module(torch.zeros(4, 1))
    assert len(y.unique()) == 1


def test_what_is_empty_is_computed_too():
    """A layer without inputs, and rows without tokens."""
    for module, x, together in (
        (nn.Sequential(nn.Linear(5, 0), nn.Linear(0, 3)), torch.randn(4, 5), False),
        (nn.Linear(5, 3), torch.randn(4, 0, 5), True),
    ):
        p = Perturbation(sigma=0.3)
        expected = explicit(module, range(4), x, 1, p)
        with warnings.catch_warnings(), perturb(module, range(4), p) as members:
            warnings.simplefilter("ignore")
            assert torch.allclose(module(x), expected, atol=1e-5)
            assert members.together is together


class Relative(nn.Module):
    """Relative positions, a table of T × T, and a parameter expanded over T: T may be as many as the rows by chance."""

    def __init__(self):
        super().__init__()
        self.table, self.layer, self.mask = nn.Embedding(65, 5), nn.Linear(5, 5), nn.Parameter(torch.randn(1, 5))

    def forward(self, x):  # (rows, T, 5)
        i = torch.arange(x.shape[1])
        places = self.table(i[:, None] - i[None] + 32).tanh().sum(1)
        return self.layer(x) + places + self.mask.expand(x.shape[1], -1)


@pytest.mark.parametrize("kind", ["dense", "lowrank"])
def test_what_is_as_long_as_the_rows_by_chance_is_not_taken_for_rows(kind):
    torch.manual_seed(0)
    module, p = Relative(), Perturbation(kind=kind, sigma=0.3)
    with perturb(module, range(4), p):
        for steps in (3, 4, 8, 4):
            x = torch.randn(4, steps, 5)
            assert_close(module(x), explicit(module, range(4), x, 1, p))


class Counts(nn.Module):
    """Places of tokens that are cast as the tokens are: a constant, which may be as long as the rows by chance."""

    def __init__(self):
        super().__init__()
        self.words, self.places = nn.Embedding(9, 4), nn.Embedding(6, 4)

    def forward(self, ids):
        return self.words(ids) + self.places(torch.arange(ids.shape[1]).to(ids))


class Triangle(nn.Module):
    def __init__(self):
        super().__init__()
        self.alpha = nn.Parameter(torch.rand(1))

    def forward(self, x):
        return x + (self.alpha * x.new_ones(6, 6).tril()).sum()


@pytest.mark.parametrize("make", [Counts, Triangle])
@pytest.mark.parametrize("kind", ["dense", "lowrank"])
def test_each_number_of_rows_is_checked_whatever_was_computed_before(make, kind):
    torch.manual_seed(0)
    module, p = make(), Perturbation(kind=kind, sigma=0.3)
    for n in (8, 2, 1, 6, 2):  # three rows for each: of two members, there are as many rows as places
        ids = torch.randint(9, (3 * n, 6))
        x = ids if make is Counts else ids.float()
        with warnings.catch_warnings(action="ignore"), perturb(module, range(n), p):
            assert_close(module(x), explicit(module, range(n), x, 3, p))


class Decays(nn.Module):
    """Memory that is changed in place."""

    def __init__(self):
        super().__init__()
        self.inner, self.token = nn.Linear(3, 3), nn.Parameter(torch.rand(1, 3))

    def forward(self, x, state):
        state.mul_(0.5).add_(self.inner(x))
        return state + self.token.expand(len(x), -1)


def test_arguments_that_are_changed_are_changed_once():
    torch.manual_seed(0)
    module, p = Decays(), Perturbation(sigma=0.1)
    for n in (4, 2, 3):
        x, state = torch.randn(n, 3), torch.randn(n, 3)
        with perturb(module, range(n), p):
            y = module(x, state.clone())
        weights = [member_weights(module, i, p) for i in range(n)]
        rows = [functional_call(module, w, (x[i : i + 1], state[i : i + 1].clone())) for i, w in enumerate(weights)]
        assert_close(y, torch.cat(rows))


@pytest.mark.parametrize("n", [1, 4])
def test_a_case_is_checked_once(n, monkeypatch):
    checked = []
    monkeypatch.setattr(
        Population, "_check", lambda self, *a, check=Population._check: (checked.append(1), check(self, *a))
    )
    module, p, x = nn.Linear(3, 2), Perturbation(sigma=0.1), torch.randn(8, 3)
    for _ in range(2):
        with perturb(module, range(n), p):
            for _ in range(3):
                module(x)
    assert len(checked) == 1


@pytest.mark.parametrize("value", [np.int64(3), np.float32(0.5), torch.float32, slice(0, 2)])
def test_arguments_that_cannot_change_do_not_switch_the_check_off(value):
    class Centred(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(3, 2)

        def forward(self, x, other):
            y = self.inner(x)
            return y - y.mean(0)

    torch.manual_seed(0)
    module, p, x = Centred(), Perturbation(sigma=0.3), torch.randn(8, 3)
    with warnings.catch_warnings(action="ignore"), perturb(module, range(4), p) as members:
        y = module(x, value)
    assert not members.together
    rows = [functional_call(module, member_weights(module, i, p), (x[2 * i : 2 * i + 2], value)) for i in range(4)]
    assert_close(y, torch.cat(rows))


@pytest.mark.parametrize("kind", ["dense", "lowrank"])
def test_parameters_are_repeated_and_cast_as_other_tensors(kind):
    class Repeats(nn.Module):
        def __init__(self):
            super().__init__()
            self.gain, self.table = nn.Parameter(torch.rand(4)), nn.Parameter(torch.rand(4, 2))

        def forward(self, x):
            cast = self.gain.type_as(x) + self.gain.to(x)
            x = x.type_as(self.gain).to(self.table)
            return x * self.gain.repeat(2) + cast.repeat(2) + self.table.repeat(1, 4).sum(0)

    torch.manual_seed(0)
    module, p = Repeats(), Perturbation(kind=kind, sigma=0.3)
    for rows in (1, 4):
        x = torch.randn(4 * rows, 8)
        with warnings.catch_warnings(action="ignore"), perturb(module, range(4), p):
            assert_close(module(x), explicit(module, range(4), x, rows, p))
