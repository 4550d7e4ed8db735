"""The network against reference vectors and against torchvision's own forward."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from everypoint.correspond.raft_network import FrameCode, RaftNetwork
from everypoint.correspond.raft_weights import to_torchvision
from tests.shared import shared
from tests.unit.correspond.weights import formula_weights, random_network

REFERENCE = 1e-2  # pixels: what the reference vectors demand
EQUAL = 1e-3  # pixels: other order of the same float32 sums


@pytest.fixture(scope="module", params=["large", "small"])
def vectors(request):
    data = dict(np.load(shared("vectors/raft_forward_vectors.npz")))
    small = request.param == "small"
    state, found_small = to_torchvision(formula_weights(small))
    assert found_small == small
    network = RaftNetwork(state, small=small)
    images = [torch.from_numpy(data[name][0]).float() / 127.5 - 1 for name in ("image1", "image2")]
    expected = {key.removeprefix(f"{request.param}/"): data[key] for key in data if key.startswith(request.param)}
    return [network.encode(image) for image in images], network, int(data["iters"]), expected


def test_reference_vectors_cold(vectors):
    (first, second), network, iterations, expected = vectors
    low, up = network.pair_flows([first], [second], iterations)
    assert np.abs(low.numpy() - expected["low"]).max() < REFERENCE
    assert np.abs(up.numpy() - expected["up"]).max() < REFERENCE


def test_reference_vectors_warm(vectors):
    (first, second), network, iterations, expected = vectors
    start = torch.from_numpy(expected["low"])
    low, up = network.pair_flows([first], [second], iterations, flow_init=start)
    assert np.abs(low.numpy() - expected["low_warm"]).max() < REFERENCE
    assert np.abs(up.numpy() - expected["up_warm"]).max() < REFERENCE
    assert np.abs(up.numpy() - expected["up"]).max() > 10 * REFERENCE  # the start does count
    assert torch.equal(start, torch.from_numpy(expected["low"]))  # and is not written to


@pytest.mark.parametrize("small", [False, True])
def test_equals_torchvision_forward(small):
    from torchvision.models.optical_flow import raft_large, raft_small

    network, state = random_network(small)
    reference = (raft_small if small else raft_large)(weights=None).eval()
    reference.load_state_dict(state)
    random = torch.Generator().manual_seed(1)
    first, second, third = torch.rand(3, 3, 128, 160, generator=random) * 2 - 1
    with torch.inference_mode():
        expected = [reference(first[None], other[None], num_flow_updates=3)[-1][0] for other in (second, third)]
    codes = [network.encode(image) for image in (first, second, third)]
    flows = network.pair_flows(codes[:1] * 2, codes[1:], 3)[1]
    assert flows.shape == (2, 2, 128, 160)
    for flow, wanted in zip(flows, expected, strict=True):
        assert (flow - wanted).abs().max() < EQUAL
    assert expected[0].abs().max() > 100 * EQUAL


def test_a_target_needs_no_context_but_a_source_does():
    network, _ = random_network(small=True)
    image = torch.rand(3, 128, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1
    code = network.encode(image)
    bare = FrameCode(code.features, None)
    whole, lean = (network.pair_flows([code], [target], 1)[1] for target in (code, bare))
    assert torch.equal(whole, lean)
    with pytest.raises(ValueError, match="context"):
        network.pair_flows([bare], [code], 1)


@pytest.mark.slow  # two threads of torch wait for each other where other jobs hold the cores
@pytest.mark.parametrize("small", [False, True])
def test_flows_do_not_depend_on_the_number_of_threads(small):
    # Shapes as of half a 480p frame: at small ones the library does not split sums among threads anyway.
    network, _ = random_network(small)
    first, second = torch.rand(2, 3, 240, 424, generator=torch.Generator().manual_seed(0)) * 2 - 1
    before, flows = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            flows.append(network.pair_flows([network.encode(first)], [network.encode(second)], 1)[1])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*flows)
