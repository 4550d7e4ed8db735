"""The network against reference vectors and torchvision's own forward, with every look-up, precision and step."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from everypoint.correspond import raft_lookup
from everypoint.correspond.raft import to_network_range
from everypoint.correspond.raft_network import Context, FrameCode, LookupPlan, RaftNetwork, stack_maps
from everypoint.correspond.raft_weights import load_weights, to_torchvision
from everypoint.numerics import threads
from tests.shared import shared
from tests.unit.correspond.peak import PeakBytes
from tests.unit.correspond.weights import formula_weights, random_network, things

REFERENCE = 1e-2  # pixels: what the reference vectors demand
EQUAL = 1e-3  # pixels: other order of the same float32 sums


SAMPLED, MIXED = LookupPlan("sampled"), LookupPlan("auto", 2**17)
LOOKUPS = {"volume": LookupPlan(), "tiled": SAMPLED, "gathered": SAMPLED, "mixed": MIXED}


class Gathering(RaftNetwork):
    """The look-up of CUDA and of compiled code, on the CPU."""

    _gathered = True


@pytest.fixture(scope="module", params=["large", "small"])
def vectors(request):
    data = dict(np.load(shared("vectors/raft_forward_vectors.npz")))
    small = request.param == "small"
    state, found_small = to_torchvision(formula_weights(small))
    assert found_small == small
    images = [torch.from_numpy(data[name][0]).float() / 127.5 - 1 for name in ("image1", "image2")]
    network = RaftNetwork(state, small=small)
    expected = {key.removeprefix(f"{request.param}/"): data[key] for key in data if key.startswith(request.param)}
    return [network.encode(image) for image in images], (state, small), int(data["iters"]), expected


def with_lookup(weights: tuple[dict, bool], name: str) -> RaftNetwork:
    kind = Gathering if name == "gathered" else RaftNetwork
    return kind(weights[0], small=weights[1], lookup=LOOKUPS[name])


@pytest.mark.parametrize("lookup", LOOKUPS)
def test_reference_vectors_cold(vectors, lookup):
    (first, second), weights, iterations, expected = vectors
    low, up = with_lookup(weights, lookup).pair_flows([first], [second], iterations)
    assert np.abs(low.numpy() - expected["low"]).max() < REFERENCE
    assert np.abs(up.numpy() - expected["up"]).max() < REFERENCE


@pytest.mark.parametrize("lookup", LOOKUPS)
def test_reference_vectors_warm(vectors, lookup):
    (first, second), weights, iterations, expected = vectors
    start = torch.from_numpy(expected["low"])
    low, up = with_lookup(weights, lookup).pair_flows([first], [second], iterations, flow_init=start)
    assert np.abs(low.numpy() - expected["low_warm"]).max() < REFERENCE
    assert np.abs(up.numpy() - expected["up_warm"]).max() < REFERENCE
    assert np.abs(up.numpy() - expected["up"]).max() > 10 * REFERENCE  # the start does count
    assert torch.equal(start, torch.from_numpy(expected["low"]))  # and is not written to


def test_the_mixed_look_up_is_one_at_the_size_of_the_vectors():
    network, _ = random_network(small=True)
    network.lookup = MIXED
    assert 0 < network._first_held(1, 16, 20) < network.levels


def frame_codes(network: RaftNetwork, count: int, size: tuple[int, int] = (128, 136)) -> list[FrameCode]:
    images = torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(2)) * 2 - 1
    return [network.encode(image) for image in images]


@pytest.mark.parametrize("lookup", LOOKUPS)
def test_pairs_of_different_sources_in_one_call(lookup):
    _, state = random_network(small=True)
    network = with_lookup((state, True), lookup)
    codes = frame_codes(network, 3)
    start = torch.randn(3, 2, 16, 17, generator=torch.Generator().manual_seed(3))
    pairs = [(0, 1), (2, 0), (1, 2)]
    together = network.pair_flows([codes[i] for i, _ in pairs], [codes[j] for _, j in pairs], 3, start)
    for row, (i, j) in enumerate(pairs):
        alone = network.pair_flows([codes[i]], [codes[j]], 3, start[row : row + 1])
        for one, all_of_them in zip(alone, together, strict=True):
            assert (one[0] - all_of_them[row]).abs().max() < EQUAL
    assert (together[1][0] - together[1][1]).abs().max() > 100 * EQUAL
    with pytest.raises(ValueError, match="sources"):
        network.pair_flows(codes, codes[:1], 1)


def test_stacked_maps_are_channels_last_and_one_map_is_not_copied():
    maps = [torch.randn(5, 6, 4).permute(2, 0, 1) for _ in range(3)]
    stacked = stack_maps(maps)
    assert torch.equal(stacked, torch.stack(maps))
    assert stacked.is_contiguous(memory_format=torch.channels_last)
    assert stack_maps(maps[:1] * 2).untyped_storage().data_ptr() == maps[0].untyped_storage().data_ptr()


def fresh(code: FrameCode) -> FrameCode:
    """A copy, such as another frame's code would be."""
    gates = tuple((zr.clone(), q.clone()) for zr, q in code.context.gates)
    return FrameCode(code.features.clone(), Context(code.context.hidden.clone(), gates))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("lookup", ["volume", "tiled", "gathered"])
@pytest.mark.parametrize(("small", "batch"), [(True, 1), (True, 3), (False, 1)])
def test_the_estimate_of_a_call_is_what_its_tensors_take(small, batch, lookup, precision, monkeypatch):
    monkeypatch.setattr("everypoint.correspond.raft_lookup.GATHER_BYTES", 2**22)
    _, state = random_network(small)
    kind = Gathering if lookup == "gathered" else RaftNetwork
    network = kind(state, small=small, lookup=LOOKUPS[lookup], precision=precision)
    source, target = frame_codes(network, 2, (160, 192))
    sources, targets = ([fresh(code) for _ in range(batch)] for code in (source, target))
    with PeakBytes() as memory:
        network.pair_flows(sources, targets, 1, torch.zeros(batch, 2, 20, 24))
    assert 0.95 * memory.peak < network.call_bytes(batch, 20, 24) < 1.5 * memory.peak


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("small", [False, True])
def test_the_estimate_of_encoding_is_what_its_tensors_take(small, precision):
    network = RaftNetwork(random_network(small)[1], small=small, precision=precision)
    image = torch.rand(3, 128, 160, generator=torch.Generator().manual_seed(0))
    for encoder in (network.encode_features, network.encode_context):
        with PeakBytes() as memory:
            encoder(image)
        assert 0.99 * memory.peak < network.encode_bytes(128, 160) < 1.3 * memory.peak


def test_the_estimate_at_real_sizes():
    network, _ = random_network(small=False)
    assert 0.22e9 < network.call_bytes(1, 60, 107) < 0.32e9  # the volume alone has 0.22 GB
    assert 5.6e9 < network.call_bytes(1, 135, 240) < 6.2e9
    network.lookup = SAMPLED
    assert network.call_bytes(1, 135, 240) < 0.5e9
    assert network.call_bytes(8, 135, 240) < 4e9


def real_pair(size: tuple[int, int]) -> list[torch.Tensor]:
    """Two frames of a development video, three apart, a part of them."""
    cv2 = pytest.importorskip("cv2")
    folder = shared("data/davis480") / "horsejump-high" / "color"
    files = sorted(folder.glob("*.jpg"))[0:4:3]
    pictures = [cv2.imread(str(file))[120 : 120 + size[0], 300 : 300 + size[1], ::-1] for file in files]
    return [to_network_range(picture) for picture in pictures]


@pytest.mark.parametrize(
    ("precision", "size"),
    [
        ("bfloat16", (128, 160)),
        pytest.param("float16", (128, 160), marks=pytest.mark.slow),  # without kernels of its own on most CPUs
        pytest.param("bfloat16", (320, 512), marks=pytest.mark.slow),
    ],
)
def test_half_precision_on_a_real_pair(precision, size):
    state, small = load_weights(things())
    images, flows = real_pair(size), []
    for name in ("float32", precision):
        network = RaftNetwork(state, small=small, precision=name)
        codes = [network.encode(image) for image in images]
        assert codes[0].features.dtype == torch.float32
        flows.append(network.pair_flows(codes[:1], codes[1:], 8)[1])
        assert flows[-1].dtype == torch.float32
    difference = (flows[0] - flows[1]).norm(dim=1)
    assert 0 < difference.median() < 0.05
    assert flows[0].norm(dim=1).median() > 1


@pytest.mark.slow  # the compiler takes its time
@pytest.mark.parametrize("lookup", ["volume", "gathered"])
def test_the_compiled_step_equals_the_plain_one(lookup):
    _, state = random_network(small=True)
    torch._dynamo.utils.counters.clear()
    plain = RaftNetwork(state, small=True)
    compiled = RaftNetwork(state, small=True, lookup=LOOKUPS[lookup], compiled=True)
    codes = frame_codes(plain, 3)
    for source, target in ((0, 1), (2, 1)):
        wanted, found = (net.pair_flows([codes[source]], [codes[target]], 4) for net in (plain, compiled))
        for ours, theirs in zip(found, wanted, strict=True):
            assert (ours - theirs).abs().max() < EQUAL
    counters = torch._dynamo.utils.counters
    assert counters["stats"]["unique_graphs"] == 1  # one graph for all iterations of all calls
    assert not counters["graph_break"]


def test_volumes_beyond_what_a_call_takes_are_looked_up_in_parts(monkeypatch):
    network, _ = random_network(small=True)
    codes = frame_codes(network, 2)
    whole = network.pair_flows(codes[:1], codes[1:], 3)[1]
    monkeypatch.setattr(raft_lookup, "SAMPLED_AT_ONCE", 50)  # of 16 x 17 volumes
    assert torch.equal(network.pair_flows(codes[:1], codes[1:], 3)[1], whole)


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
@pytest.mark.parametrize("lookup", ["volume", "sampled"])
@pytest.mark.parametrize("small", [False, True])
def test_flows_do_not_depend_on_the_number_of_threads(small, lookup):
    # Shapes as of half a 480p frame: at small ones the library does not split sums among threads anyway.
    network, _ = random_network(small)
    network.lookup = LookupPlan(lookup)
    first, second = torch.rand(2, 3, 240, 424, generator=torch.Generator().manual_seed(0)) * 2 - 1
    flows = []
    for count in (1, 2):
        with threads(count):
            flows.append(network.pair_flows([network.encode(first)], [network.encode(second)], 1)[1])
    assert torch.equal(*flows)
