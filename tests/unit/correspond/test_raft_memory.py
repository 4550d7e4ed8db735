"""RAFT on a device whose memory ends: fewer pairs a call, equal flows, and one sentence where nothing fits."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch

from everypoint.config.options import FlowOptions
from everypoint.correspond.raft import RaftSession
from everypoint.errors import ResourceError
from tests.unit.correspond.scenes import shifted_texture
from tests.unit.correspond.weights import random_network

PLAN = {0: [1, 2, 3, 4, 5], 3: [0, 1, 2, 4, 5], 5: [4, 3, 2]}
WORDS = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 7 GiB"


class Device:
    """Stands for a device that holds ``room`` pairs at once: the network fails in the middle of a larger call."""

    def __init__(self, session: RaftSession, room: int) -> None:
        self.room, self.tried, self.left = room, [], []
        self._pair_flows = session._network.pair_flows
        session._network.pair_flows = self

    def __call__(self, sources, targets, iterations, start=None):
        assert not any(alive() is not None for alive in self.left), "a failed call still holds its tensors"
        self.tried.append(len(sources))
        if len(sources) > self.room:
            volume = torch.zeros(10)
            self.left.append(weakref.ref(volume))
            raise torch.OutOfMemoryError(WORDS)
        return self._pair_flows(sources, targets, iterations, start)


def session_of(batch: int, **options) -> RaftSession:
    network, _ = random_network(small=True)
    frames = shifted_texture(6, (64, 72))
    return RaftSession(network, frames, FlowOptions(iterations=2, batch=batch, **options), torch.device("cpu"))


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize(("batch", "room"), [(4, 2), (4, 1), (3, 2), (8, 1)])
def test_flows_in_halves_are_those_of_whole_calls(batch, room, warm, caplog):
    whole, halved = session_of(batch, warm_start=warm), session_of(batch, warm_start=warm)
    device = Device(halved, room)
    for source, flows in halved.group_flows(PLAN):
        expected = whole.flows(source, PLAN[source])
        assert np.abs(flows / 32 - expected).max() < 1 / 64 + 1e-3  # of the encoding, and as batches differ by
    failed = [size for size in device.tried if size > room]
    assert failed[0] == min(batch, 4 if warm else 13)  # chains, pairs
    assert failed == [-(-failed[0] // 2**n) for n in range(len(failed))]  # what was too much is not tried again
    assert max(device.tried[len(failed) :]) <= room
    warnings = [record for record in caplog.records if "do not fit" in record.message]
    assert [record.levelname for record in warnings] == ["WARNING"] * len(failed)


@pytest.mark.parametrize("warm", [False, True])
def test_halves_differ_from_whole_calls_by_rounding_alone(warm):
    whole, halved = session_of(4, warm_start=warm), session_of(4, warm_start=warm)
    Device(halved, 1)
    for (_, expected), (_, found) in zip(whole._computed(PLAN), halved._computed(PLAN), strict=True):
        assert torch.allclose(found, expected, rtol=1e-6, atol=2e-5)  # px, of flows up to 11 px


def test_halves_equal_calls_of_that_size_bit_for_bit():
    plan = {0: [1, 2, 3, 4]}
    halved = session_of(4)
    Device(halved, 2)
    assert np.array_equal(halved.flows(0, plan[0]), session_of(2).flows(0, plan[0]))


def test_three_halvings_are_the_end():
    session = session_of(16)
    device = Device(session, 1)
    with pytest.raises(ResourceError, match="does not fit into the memory of cpu with 2 pairs a call"):
        session.flows(0, [1, 2, 3, 4, 5] * 3 + [1])
    assert device.tried == [16, 8, 4, 2]


def test_one_pair_that_does_not_fit_is_one_sentence_with_an_estimate():
    session = session_of(2)
    device = Device(session, 0)
    with pytest.raises(ResourceError) as caught:
        session.flows(0, [1, 2])
    assert device.tried == [2, 1]
    text = str(caught.value)
    assert f"with one pair a call: that takes about {session.call_bytes(1) / 2**30:.2f} GiB" in text
    assert "CUDA out of memory)" in text
    assert "flow.volume_gib" in text
    assert "GPU 0" not in text


def test_other_errors_are_not_tried_again():
    session = session_of(2)
    calls = []

    def fail(*given):
        calls.append(given)
        raise RuntimeError("device-side assert")

    session._network.pair_flows = fail
    with pytest.raises(RuntimeError, match="device-side assert"):
        session.flows(0, [1, 2])
    assert len(calls) == 1


def test_fewer_pairs_are_estimated_to_take_less():
    session = session_of(8)
    assert session.call_bytes() == session.call_bytes(8) > session.call_bytes(4) > session.call_bytes(1)
