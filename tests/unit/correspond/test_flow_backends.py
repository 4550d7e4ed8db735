"""The back-ends behind the protocol: known motions, sizes, repeatability, bounded cache."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from everypoint.artifacts.flows import decode_flow, encode_flow
from everypoint.config.options import FlowOptions
from everypoint.correspond.base import GroupedFlows, flow_backend
from everypoint.correspond.dis import DisBackend
from everypoint.correspond.raft import USED, RaftBackend, RaftSession, padding, resize_flow, resize_image
from everypoint.correspond.raft_network import FrameCode
from everypoint.correspond.readback import encode, one_ahead
from everypoint.correspond.resolution import flow_size
from everypoint.errors import AssetError, ConfigError
from tests.shared import ROOT, shared
from tests.unit.correspond.scenes import SHIFT, interior, shifted_texture
from tests.unit.correspond.weights import random_network, things


def medians(flow: np.ndarray) -> np.ndarray:
    return np.median(interior(flow), axis=0)


# --------------------------------------------------------------------------------------------------- protocol


@pytest.mark.parametrize(("name", "kind"), [("dis", DisBackend), ("raft", RaftBackend)])
def test_a_backend_is_found_by_name(name, kind):
    assert isinstance(flow_backend(FlowOptions(backend=name), "cpu"), kind)


@pytest.mark.parametrize("name", ["gmflow", "base", "../dis", ""])
def test_an_unknown_backend_is_one_sentence(name):
    options = FlowOptions.model_construct(**(FlowOptions().model_dump() | {"backend": name}))
    with pytest.raises(ConfigError, match="flow back-end"):
        flow_backend(options)


def test_the_protocol_loads_no_heavy_package():
    code = "import sys, everypoint.correspond.base, everypoint.correspond.pairs, everypoint.correspond.run; "
    code += "sys.exit(any(name in sys.modules for name in ('torch', 'cv2')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


# ------------------------------------------------------------------------------------------------------ sizes


@pytest.mark.parametrize(
    ("size", "options", "expected"),
    [
        ((480, 854), {}, (480, 854)),
        ((480, 854), {"resolution": 240}, (240, 427)),
        ((854, 480), {"resolution": 240}, (427, 240)),
        ((256, 256), {"upsample_below": 512}, (512, 512)),
        ((600, 800), {"upsample_below": 512}, (600, 800)),
        ((256, 256), {"resolution": 384, "upsample_below": 512}, (384, 384)),
        ((3, 1000), {"resolution": 1}, (1, 333)),
    ],
)
def test_flow_size(size, options, expected):
    assert flow_size(size, FlowOptions(**options)) == expected


@pytest.mark.parametrize(
    ("size", "expected"),
    [((480, 854), (1, 1, 0, 0)), ((128, 160), (0, 0, 0, 0)), ((60, 131), (2, 3, 34, 34)), ((1, 8), (60, 60, 63, 64))],
)
def test_padding_is_even_and_reaches_what_the_network_needs(size, expected):
    left, right, top, bottom = padding(size)
    assert (left, right, top, bottom) == expected
    padded = size[0] + top + bottom, size[1] + left + right
    assert all(side % 8 == 0 and side >= 128 for side in padded)
    assert 0 <= right - left <= 1
    assert 0 <= bottom - top <= 1


def test_a_resized_flow_points_at_the_same_scene():
    # A linear field survives a bilinear raster resize exactly, away from the border.
    ys, xs = torch.meshgrid(torch.arange(12) + 0.5, torch.arange(20) + 0.5, indexing="ij")
    flow = torch.stack([0.1 * xs + 1, -0.2 * ys + 0.05 * xs])[None]  # of frames of 12 x 20, in raster pixels
    large = resize_flow(flow, (24, 60))[0]
    ys, xs = torch.meshgrid(torch.arange(24) + 0.5, torch.arange(60) + 0.5, indexing="ij")
    expected = torch.stack([3 * (0.1 * xs / 3 + 1), 2 * (-0.2 * ys / 2 + 0.05 * xs / 3)])
    assert torch.allclose(large[:, 2:-2, 3:-3], expected[:, 2:-2, 3:-3], atol=1e-5)
    assert resize_flow(flow, (12, 20)) is flow


def test_a_resized_image_follows_the_raster_rule():
    image = torch.tensor([[[0.0, 4.0, 8.0, 12.0]]])
    assert torch.allclose(resize_image(image, (1, 8))[0, 0], torch.tensor([0.0, 1, 3, 5, 7, 9, 11, 12]))
    assert resize_image(torch.rand(3, 64, 64), (16, 16)).std() < 0.12  # low-pass: noise averages out (0.29 before)


# -------------------------------------------------------------------------------------------------------- DIS


@pytest.mark.parametrize("quality", ["ultrafast", "fast", "medium"])
def test_dis_finds_a_translation(quality):
    session = DisBackend(FlowOptions(backend="dis", quality=quality)).open(shifted_texture(3, (96, 128)))
    flows = session.flows(0, [1, 2])
    assert flows.shape == (2, 96, 128, 2)
    assert flows.dtype == np.float32
    assert np.abs(medians(flows[0]) - SHIFT).max() < 0.2
    assert np.abs(medians(flows[1]) - 2 * np.array(SHIFT)).max() < 0.3
    assert np.abs(medians(session.flows(1, [0])[0]) + SHIFT).max() < 0.2


@pytest.mark.parametrize("option", [{"resolution": 192}, {"upsample_below": 192}, {"resolution": 64}])
def test_dis_at_another_resolution_gives_pixels_of_the_frame(option):
    frames = shifted_texture(2, (96, 128))
    flow = DisBackend(FlowOptions(backend="dis", **option)).open(frames).flows(0, [1])[0]
    assert flow.shape == (96, 128, 2)
    assert np.abs(medians(flow) - SHIFT).max() < 0.3


@pytest.mark.parametrize("size", [(1, 1), (7, 9), (16, 40), (33, 8)])
def test_dis_takes_small_frames(size):
    flow = DisBackend(FlowOptions(backend="dis")).open(np.zeros((2, *size, 3), np.uint8)).flows(0, [1])
    assert flow.shape == (1, *size, 2)
    assert np.isfinite(flow).all()


def test_dis_computes_on_one_thread_and_puts_the_number_back(monkeypatch):
    import cv2

    session = DisBackend(FlowOptions(backend="dis")).open(shifted_texture(2, (64, 64)))
    seen, grey = [], session._grey
    monkeypatch.setattr(session, "_grey", lambda index: seen.append(cv2.getNumThreads()) or grey(index))
    before = cv2.getNumThreads()
    cv2.setNumThreads(2)
    try:
        session.flows(0, [1])
        assert set(seen) == {1}
        assert cv2.getNumThreads() == 2
    finally:
        cv2.setNumThreads(before)


def test_dis_does_not_depend_on_what_was_asked_before():
    frames = shifted_texture(3, (128, 160))
    alone = DisBackend(FlowOptions(backend="dis")).open(frames).flows(0, [2])
    session = DisBackend(FlowOptions(backend="dis")).open(frames)
    session.flows(1, [0, 2])
    assert np.array_equal(session.flows(0, [1, 2])[1:], alone)


def test_dis_reads_read_only_and_reversed_frames():
    frames = shifted_texture(2, (64, 64))
    frames.flags.writeable = False  # as when memory-mapped
    DisBackend(FlowOptions(backend="dis")).open(frames[:, :, ::-1]).flows(0, [1])


# ------------------------------------------------------------------------------------------------------- RAFT


def raft_session(frames: np.ndarray, cache_bytes: int = 2**30, **options) -> RaftSession:
    network, _ = random_network(small=True)
    return RaftSession(network, frames, FlowOptions(iterations=2, **options), torch.device("cpu"), cache_bytes)


def test_raft_encodes_each_frame_once():
    frames = shifted_texture(4, (64, 72))
    session = raft_session(frames)
    for source in range(4):
        session.flows(source, [j for j in range(4) if j != source])
    assert session.encoded == 4


def test_raft_with_a_small_cache_is_slower_and_equal():
    frames = shifted_texture(4, (64, 72))
    large, none = raft_session(frames), raft_session(frames, cache_bytes=0)
    for source, targets in ((0, [1, 2, 3]), (2, [0, 1])):
        assert np.array_equal(large.flows(source, targets), none.flows(source, targets))
    assert none.encoded > large.encoded
    assert len(none._cache) == 1


@pytest.mark.parametrize("batch", [1, 2])
def test_raft_result_depends_on_the_arguments_only(batch):
    frames = shifted_texture(5, (64, 72))
    fresh = raft_session(frames, batch=batch).flows(3, [0, 1, 2, 4])
    used = raft_session(frames, batch=batch)
    for source in (0, 1, 4):
        used.flows(source, [2, 3])
    assert np.array_equal(used.flows(3, [0, 1, 2, 4]), fresh)


def test_raft_batches_agree():
    frames = shifted_texture(4, (64, 72))
    one, three = (raft_session(frames, batch=batch).flows(0, [1, 2, 3]) for batch in (1, 3))
    assert np.abs(one - three).max() < 1e-3


def test_raft_padding_is_taken_off_where_it_was_put_on():
    # 126 x 150 pads to 128 x 152 by (1, 1, 1, 1); hand-padded frames need none, so both see the same pixels.
    frames = shifted_texture(2, (126, 150))
    padded = np.pad(frames, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    ours, whole = raft_session(frames).flows(0, [1])[0], raft_session(padded).flows(0, [1])[0]
    assert ours.shape == (126, 150, 2)
    assert np.array_equal(ours, whole[1:-1, 1:-1])


PLAN = {1: [0, 2, 3, 5], 2: [4, 0], 4: [5, 3, 1], 5: [1]}  # whole groups, ends of the video, targets in any order


def test_raft_computes_groups_of_sources_and_dis_does_not():
    session = raft_session(shifted_texture(2, (64, 72)), batch=3)
    assert isinstance(session, GroupedFlows)
    assert session.group_size == 3
    assert not isinstance(DisBackend(FlowOptions(backend="dis")).open(shifted_texture(2, (64, 72))), GroupedFlows)


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("batch", [1, 3])
def test_raft_groups_equal_single_sources(batch, warm):
    frames = shifted_texture(6, (64, 72))
    alone = {i: raft_session(frames, warm_start=warm).flows(i, targets) for i, targets in PLAN.items()}
    heard: list[int] = []
    session = raft_session(frames, warm_start=warm, batch=batch)
    grouped = dict(session.group_flows(PLAN, heard.append))
    assert grouped.keys() == PLAN.keys()
    assert sum(heard) == sum(map(len, PLAN.values()))
    assert max(heard) == batch
    for source, flows in grouped.items():
        assert flows.dtype == np.int16
        difference = np.abs(flows / 32 - alone[source])
        assert difference.max() < 1 / 64 + 1e-3
    assert session._contexts == session._last == {}  # nothing is kept of sources that are done
    again = dict(raft_session(frames, warm_start=warm, batch=batch).group_flows(PLAN))
    assert all(np.array_equal(again[source], flows) for source, flows in grouped.items())


def test_raft_sources_arrive_as_soon_as_they_are_complete():
    session = raft_session(shifted_texture(6, (64, 72)), batch=2)
    heard: list[int] = []
    seen = [(source, sum(heard)) for source, _ in session.group_flows(PLAN, heard.append)]
    assert [source for source, _ in seen] == [1, 2, 4, 5]
    assert [pairs for _, pairs in seen] == [4, 6, 10, 10]


def test_raft_warm_start_goes_outwards_from_the_source():
    frames, source, targets = shifted_texture(8, (64, 72)), 2, [0, 5, 3, 7, 4, 1]
    warm = raft_session(frames, warm_start=True).flows(source, targets)
    cold = raft_session(frames).flows(source, targets)
    network, session = random_network(small=True)[0], raft_session(frames)
    images = [session._image(j) for j in range(8)]
    code, last = network.encode(images[source]), None
    for target, before, ratio in ((3, None, 0), (4, 3, 1), (5, 4, 1), (7, 5, 5 / 3), (1, None, 0), (0, 1, 1)):
        start = None if before is None else last * ratio
        features = FrameCode(network.encode_features(images[target]), None)
        last, flow = network.pair_flows([code], [features], 2, start)
        row = targets.index(target)
        assert np.abs(warm[row] - session._restore(flow)[0].permute(1, 2, 0).numpy()).max() < 1e-4
        assert (np.abs(warm[row] - cold[row]).max() > 0.1) == (before is not None)


@pytest.mark.parametrize(
    ("lookup", "gib", "first"), [("auto", 4, 0), ("auto", 0.1, 1), ("volume", 0.1, 0), ("sampled", 4, 4)]
)
def test_raft_options_reach_the_network(lookup, gib, first, tmp_path):
    _, state = random_network(small=True)
    torch.save(state, tmp_path / "raft.pth")
    weights = str(tmp_path / "raft.pth")
    options = FlowOptions(weights=weights, lookup=lookup, volume_gib=gib, precision="bfloat16", compile=True)
    network = RaftBackend(options).network
    assert network._first_held(1, 60, 107) == first
    assert network.flow_head.conv1.weight.dtype == torch.bfloat16
    assert network.compiled


def test_raft_says_how_much_memory_a_call_takes(caplog):
    caplog.set_level("INFO")
    session = raft_session(shifted_texture(2, (120, 200)), batch=2, upsample_below=240)
    assert 1 < session.call_bytes() / session._network.call_bytes(2, 30, 50) < 1.5
    tiny = raft_session(shifted_texture(2, (8, 8)), lookup="sampled")  # padded to 128 x 128
    assert tiny.call_bytes() >= tiny._network.encode_bytes(128, 128)
    assert any("RAFT at 400 x 240, 2 pairs a call: about" in line for line in caplog.messages)
    assert session.group_bytes({0: [1], 1: [0]}) == 2 * 120 * 200 * 2 * 2


def test_compiled_calls_are_padded_to_one_shape(monkeypatch):
    session = raft_session(shifted_texture(6, (64, 72)), batch=3, compile=True)  # the network itself is not compiled
    sizes, pair_flows = [], session._network.pair_flows
    monkeypatch.setattr(
        session._network, "pair_flows", lambda *given: sizes.append(len(given[0])) or pair_flows(*given)
    )
    found = dict(session.group_flows(PLAN))
    assert set(sizes) == {3}
    for source, flows in dict(raft_session(shifted_texture(6, (64, 72)), batch=3).group_flows(PLAN)).items():
        assert np.abs(found[source] - flows.astype(int)).max() <= 1  # a step of the encoding


def test_flows_are_encoded_on_the_device_as_on_the_host():
    random = np.random.default_rng(0)
    flow = random.normal(0, 300, (50, 60, 2)).astype(np.float32)
    flow[0, :6, 0] = [np.nan, np.inf, -np.inf, 1023.99, -1023.99, 3e38]
    flow[1, :4, 0] = [0.5 / 32, 1.5 / 32, -0.5 / 32, 1023.97]
    assert np.array_equal(encode(torch.from_numpy(flow)).numpy(), encode_flow(flow))


def test_the_next_item_is_asked_for_before_one_is_used():
    asked: list[int] = []
    used = [(item, len(asked)) for item in one_ahead(asked.append(k) or k for k in range(4))]
    assert used == [(0, 2), (1, 3), (2, 4), (3, 4)]
    assert list(one_ahead([])) == []


def test_raft_without_targets_computes_nothing():
    session = raft_session(shifted_texture(2, (64, 72)))
    assert session.flows(0, []).shape == (0, 64, 72, 2)
    assert session.encoded == 0


def test_raft_reads_read_only_frames():
    frames = shifted_texture(2, (64, 72))
    frames.flags.writeable = False
    assert np.isfinite(raft_session(frames).flows(0, [1])).all()


def test_raft_weights_that_are_not_there_are_one_sentence(tmp_path):
    with pytest.raises(AssetError, match="nowhere.pth"):
        RaftBackend(FlowOptions(weights=str(tmp_path / "nowhere.pth"))).describe()


@pytest.mark.parametrize("option", [{}, {"resolution": 160}, {"upsample_below": 160}])
def test_published_raft_finds_a_translation(option):
    backend = flow_backend(FlowOptions(weights=str(things()), iterations=6, **option))
    flow = backend.open(shifted_texture(2, (128, 136))).flows(0, [1])[0]
    assert np.abs(medians(flow) - SHIFT).max() < 0.1
    assert (np.abs(interior(flow) - SHIFT).max(axis=1) < 0.3).mean() > 0.99


def test_published_raft_on_frames_smaller_than_its_least_size():
    backend = flow_backend(FlowOptions(weights=str(things()), iterations=6))
    flow = backend.open(shifted_texture(2, (72, 80))).flows(0, [1])[0]
    assert flow.shape == (72, 80, 2)
    assert np.abs(medians(flow) - SHIFT).max() < 0.3


@pytest.mark.slow
def test_published_raft_on_real_frames_is_one_whatever_its_costs():
    import cv2

    files = sorted((shared("data/davis480") / "horsejump-high" / "color").glob("*.jpg"))[:5:2]
    frames = np.stack([cv2.imread(str(file))[120:312, 300:556, ::-1] for file in files])
    base = {"weights": str(things()), "iterations": 12}
    plan = {0: [1, 2], 1: [0, 2], 2: [0]}
    plain = flow_backend(FlowOptions(**base)).open(frames)
    wanted = {source: plain.flows(source, targets) for source, targets in plan.items()}
    for change in ({"batch": 3}, {"lookup": "sampled"}, {"volume_gib": 1e-3}, {"precision": "bfloat16"}):
        found = dict(flow_backend(FlowOptions(**base, **change)).open(frames).group_flows(plan))
        for source, flows in wanted.items():
            difference = np.linalg.norm(decode_flow(found[source]) - flows, axis=-1)
            assert (np.median(difference, axis=(1, 2)) < 0.05).all(), change  # half of an encoded step is 0.016


def test_description_names_all_that_the_flows_depend_on():
    base = FlowOptions(weights=str(things()))
    described = flow_backend(base).describe()
    for change in ({"iterations": 3}, {"resolution": 200}, {"upsample_below": 300}, {"batch": 2}):
        assert flow_backend(base.model_copy(update=change)).describe() != described
    others = {"warm_start": True, "precision": "bfloat16", "lookup": "sampled", "volume_gib": 1.0, "compile": True}
    for change in ({key: value} for key, value in others.items()):
        assert flow_backend(base.model_copy(update=change)).describe() != described
    own = {"backend", "weights", "quality", "folder", "shards", "pairs"}  # named apart, of others, or in the plan
    own |= {"rival", "rival_gap", "rival_upsample_below"}  # whose flows are flows of their own
    assert FlowOptions.model_fields.keys() - own == USED
    for change in ({"shards": 3}, {"quality": "fast"}, {"rival": "raft-sintel"}):
        assert flow_backend(base.model_copy(update=change)).describe() == described
