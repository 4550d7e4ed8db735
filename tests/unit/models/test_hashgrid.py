"""The hash grid against a float64 loop over corners, its sizes, and tiny-cuda-nn behind the same interface."""

from __future__ import annotations

import itertools
import math
import sys
import types

import pytest
import torch

from everypoint.errors import ConfigError, MissingPackageError
from everypoint.models.hashgrid import ENCODING, HashNet, grid_levels
from everypoint.models.tcnn import INSTALL, TinyCudaNet, hash_net

SMALL = {"n_levels": 5, "log2_hashmap_size": 6, "base_resolution": 3}
PRIMES = (1, 2654435761, 805459861, 3674653429)


def made(inputs=2, outputs=3, *, encoding=None, network=None, seed=0) -> HashNet:
    """A net whose tables are as large as its matrices, so that the grid counts."""
    net = HashNet(inputs, outputs, torch.Generator().manual_seed(seed), encoding, network)
    with torch.no_grad():
        net.params.normal_(0, 0.3, generator=torch.Generator().manual_seed(seed + 1))
    return net


def encode_by_loop(net: HashNet, table: list[list[float]], x: list[float]) -> list[float]:
    encoded, start = [], 0
    for scale, resolution, entries, _ in net.levels:
        where = [value * scale + 0.5 for value in x]
        low = [math.floor(value) for value in where]
        total = [0.0] * net.features
        for corner in itertools.product((0, 1), repeat=len(x)):
            node = [a + b for a, b in zip(low, corner, strict=True)]
            share = math.prod(
                value - a if b else 1 - (value - a) for value, a, b in zip(where, low, corner, strict=True)
            )
            if resolution ** len(x) <= entries:
                row = sum(a * resolution**axis for axis, a in enumerate(node))
            else:
                row = 0
                for a, prime in zip(node, PRIMES, strict=False):
                    row ^= a * prime % 2**32
            found = table[start + row % entries]
            total = [a + share * b for a, b in zip(total, found, strict=True)]
        encoded += total
        start += entries
    return encoded


def net_by_loop(net: HashNet, widths: list[int], x: list[float]) -> list[float]:
    """Matrices first, then the tables, as the flat parameters lie."""
    flat, matrices = net.params.tolist(), []
    for before, after in itertools.pairwise(widths):
        matrices.append([[flat.pop(0) for _ in range(before)] for _ in range(after)])
    table = [flat[at : at + net.features] for at in range(0, len(flat), net.features)]
    hidden = encode_by_loop(net, table, x)
    hidden += [0.0] * (widths[0] - len(hidden))
    for index, matrix in enumerate(matrices):
        hidden = [sum(w * v for w, v in zip(row, hidden, strict=True)) for row in matrix]
        if index < len(matrices) - 1:
            hidden = [max(value, 0.0) for value in hidden]
    return hidden[: net.outputs]


@pytest.mark.parametrize("inputs", [1, 2, 3, 4])
def test_is_the_loop(inputs):
    net = made(inputs, encoding=SMALL, network={"n_neurons": 16}).double()
    assert inputs == 1 or any(level.hashed for level in net.levels)
    assert any(not level.hashed for level in net.levels) or inputs == 4
    x = torch.rand(6, inputs, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x = torch.cat([x, torch.zeros(1, inputs), torch.ones(1, inputs)])
    expected = torch.tensor([net_by_loop(net, [16, 16, 16, 16], point) for point in x.tolist()], dtype=torch.float64)
    assert expected.std() > 0.05
    torch.testing.assert_close(net(x), expected, rtol=0, atol=1e-12)


def test_a_linear_function_is_interpolated_exactly():
    """One dense level that holds a + b x + c y at its nodes; node n lies at (n - 1/2) / scale."""
    encoding = {"n_levels": 1, "n_features_per_level": 2, "base_resolution": 8}
    net = made(2, encoding=encoding).double()
    (level,) = net.levels
    assert not level.hashed
    assert level.resolution == 8
    rows = torch.arange(level.entries)
    nodes = torch.stack([rows % 8, rows // 8], -1).double()
    table = ((nodes - 0.5) / level.scale) @ torch.tensor([[1.0, 2.0], [3.0, -1.0]]).double() + 0.25
    x = torch.rand(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) * 0.9
    expected = x @ torch.tensor([[1.0, 2.0], [3.0, -1.0]]).double() + 0.25
    torch.testing.assert_close(net._encode(x, table), expected, rtol=0, atol=1e-12)


def test_gradients():
    net = made(
        3, encoding={**SMALL, "n_levels": 2, "log2_hashmap_size": 5}, network={"n_neurons": 16, "n_hidden_layers": 1}
    ).double()
    x = torch.rand(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3), requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, _: net(x), (x, net.params), eps=1e-7, atol=1e-5)


def test_number_of_parameters_of_the_published_code_net():
    """2-D, 16 levels x 2 features, tables of at most 2^15 rows; 32 -> 64 -> 64 -> 128 without biases."""
    dense = [16**2, 24**2, 36**2, 54**2 + 4, 81**2 + 7, 122**2 + 4]  # each rounded up to a multiple of 8
    tables = 2 * (sum(dense) + 10 * 2**15)
    matrices = 32 * 64 + 64 * 64 + 64 * 128
    assert HashNet(2, 128, torch.Generator()).params.numel() == tables + matrices == 722_704


@pytest.mark.parametrize(("outputs", "padded"), [(1, 16), (16, 16), (17, 32)])
def test_outputs_are_padded_to_sixteen(outputs, padded):
    net = HashNet(2, outputs, torch.Generator())
    assert net.params.numel() == 722_704 + 64 * (padded - 128)
    assert net(torch.rand(3, 2)).shape == (3, outputs)


def test_levels_of_whole_scales_are_not_one_too_large():
    """16 * 1.5^k is whole for k < 5: float32 must not push it over the next whole number."""
    assert [level.resolution for level in grid_levels(2, ENCODING)[:5]] == [16, 24, 36, 54, 81]
    doubling = grid_levels(2, {**ENCODING, "per_level_scale": 2.0})
    assert [level.resolution for level in doubling] == [16 * 2**index for index in range(16)]


def test_the_generator_decides_alone():
    before = torch.get_rng_state()
    first, again, other = (HashNet(2, 3, torch.Generator().manual_seed(seed)).params for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("inputs", "encoding", "network"),
    [
        (5, None, None),
        (2, {"otype": "TiledGrid"}, None),
        (2, {"levels": 3}, None),
        (2, None, {"activation": "Sine"}),
        (2, None, {"n_neuron": 3}),
    ],
)
def test_refuses_what_it_is_not(inputs, encoding, network):
    for kind in (HashNet, TinyCudaNet):
        with pytest.raises(ConfigError, match="hash grid"):
            kind(inputs, 3, torch.Generator(), encoding, network)


@pytest.mark.parametrize("reason", [ImportError("no module"), OSError("Unknown compute capability")])
def test_without_tiny_cuda_nn(monkeypatch, reason):
    """Not installed, or installed where there is no CUDA device: the package looks for one when it is imported."""

    class Missing:
        def find_spec(self, name, *_):
            if name == "tinycudann":
                raise reason

    monkeypatch.delitem(sys.modules, "tinycudann", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
    with pytest.raises(MissingPackageError) as caught:
        hash_net(2, 3, torch.Generator(), tiny_cuda_nn=True)
    assert INSTALL in str(caught.value)
    assert "BSD-3" in str(caught.value)


def test_tiny_cuda_nn_behind_the_same_interface(monkeypatch):
    """A stand-in with the package's interface: flat parameters, half output."""

    class NetworkWithInputEncoding(torch.nn.Module):
        def __init__(self, n_input_dims, n_output_dims, encoding_config, network_config, seed=1337):
            super().__init__()
            self.twin = HashNet(
                n_input_dims, n_output_dims, torch.Generator().manual_seed(seed), encoding_config, network_config
            )
            self.params, self.seed = self.twin.params, seed

        def forward(self, x):
            return self.twin(x).half()

    fake = types.ModuleType("tinycudann")
    fake.NetworkWithInputEncoding = NetworkWithInputEncoding
    monkeypatch.setitem(sys.modules, "tinycudann", fake)
    net = hash_net(2, 3, torch.Generator().manual_seed(0), tiny_cuda_nn=True)
    other = hash_net(2, 3, torch.Generator().manual_seed(1), tiny_cuda_nn=True)
    x = torch.rand(4, 2)
    assert net(x).dtype == torch.float32
    assert net(x).shape == (4, 3)
    assert net.params.numel() == hash_net(2, 3, torch.Generator()).params.numel()
    assert net.net.seed != other.net.seed
