"""The flow stage: shards add up to the whole, a killed run goes on where it stopped, progress is said."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from everypoint.artifacts import flows
from everypoint.artifacts.flows import FlowShardWriter, FlowStore
from everypoint.artifacts.folder import sha256_of
from everypoint.config.options import FlowOptions, PairOptions
from everypoint.correspond import run
from everypoint.correspond.dis import DisSession
from everypoint.correspond.raft import RaftSession
from tests.unit.correspond.scenes import SHIFT, interior, shifted_texture
from tests.unit.correspond.weights import random_network

OPTIONS = FlowOptions(backend="dis", quality="ultrafast", pairs=PairOptions(intervals=(1, 2), direct=True))
FRAMES = shifted_texture(6, (48, 64))


def compute(folder, *, frames=FRAMES, options=OPTIONS, queries=(3,), shard=(0, 1)) -> int:
    return run.compute_flows(frames, options, queries, shard, folder, "cpu", "abc")


def hashes(folder) -> dict[str, str]:
    return {path.name: sha256_of(path) for path in sorted(folder.iterdir())}


def test_flows_arrive_in_the_store(tmp_path):
    assert compute(tmp_path / "flow") == 2 * (5 + 4) + 2 * 1  # gaps 1 and 2, and the pair of frames 0 and 3
    store = FlowStore([tmp_path / "flow"])
    assert store.size == (48, 64)
    assert store.sources() == list(range(6))
    assert store.targets(0) == [1, 2, 3]
    assert store.targets(3) == [0, 1, 2, 4, 5]
    assert np.abs(np.median(interior(store.flow(2, 4)), axis=0) - 2 * np.array(SHIFT)).max() < 0.3


@pytest.mark.parametrize("count", [2, 3, 9])
def test_shards_hold_together_what_one_job_computes(tmp_path, count):
    compute(tmp_path / "whole")
    parts = [tmp_path / f"{k}of{count}" for k in range(count)]
    for k, part in enumerate(parts):
        compute(part, shard=(k, count))
    whole, union = FlowStore([tmp_path / "whole"]), FlowStore(parts)
    assert union.sources() == whole.sources()
    for i in whole.sources():
        assert union.targets(i) == whole.targets(i)
        for j in whole.targets(i):
            assert np.array_equal(union.flow(i, j), whole.flow(i, j))


def interrupt(monkeypatch, after: int) -> list[int]:
    """Let the flow of the first ``after`` sources pass and stop at the next; returns the sources computed."""
    computed: list[int] = []
    original = DisSession.flows

    def flows(self, source, targets):
        if len(computed) == after:
            raise KeyboardInterrupt
        computed.append(source)
        return original(self, source, targets)

    monkeypatch.setattr(DisSession, "flows", flows)
    return computed


def test_an_interrupted_run_goes_on_and_gives_equal_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(flows, "BLOCK_MB", 0.0)  # a file a source
    compute(tmp_path / "undisturbed")
    with monkeypatch.context() as patch:
        first = interrupt(patch, 4)
        with pytest.raises(KeyboardInterrupt):
            compute(tmp_path / "flow")
        assert not (tmp_path / "flow").exists()
    second = interrupt(monkeypatch, 99)
    compute(tmp_path / "flow")
    assert first + second == list(range(6))
    assert hashes(tmp_path / "flow") == hashes(tmp_path / "undisturbed")


@pytest.fixture(scope="module")
def raft(tmp_path_factory) -> FlowOptions:
    """RAFT in groups of three sources: 0-2, 3-5 and 6."""
    import torch

    path = tmp_path_factory.mktemp("weights") / "raft.pth"
    torch.save(random_network(small=True)[1], path)
    pairs = PairOptions(intervals=(1, 2, 3))
    return FlowOptions(weights=str(path), iterations=1, batch=3, warm_start=True, pairs=pairs)


@pytest.mark.parametrize("finished", [1, 2, 3, 4])
def test_an_interrupted_group_is_computed_whole_and_gives_equal_bytes(tmp_path, monkeypatch, raft, finished):
    monkeypatch.setattr(flows, "BLOCK_MB", 0.0)  # a file a source
    frames = shifted_texture(7, (40, 48))
    assert compute(tmp_path / "undisturbed", frames=frames, options=raft) == 2 * (6 + 5 + 4)
    written, write = [], FlowShardWriter.write

    def failing(self, source, *given):
        if len(written) == finished:
            raise KeyboardInterrupt
        written.append(source)
        write(self, source, *given)

    with monkeypatch.context() as patch:
        patch.setattr(FlowShardWriter, "write", failing)
        with pytest.raises(KeyboardInterrupt):
            compute(tmp_path / "flow", frames=frames, options=raft)
    before, finished = list(written), 99
    with monkeypatch.context() as patch:
        patch.setattr(FlowShardWriter, "write", failing)
        computed = compute(tmp_path / "flow", frames=frames, options=raft)
    assert sorted(written) == list(range(7))  # none was written twice
    groups = [{0, 1, 2}, {3, 4, 5}, {6}]
    targets = [3, 4, 5, 6, 5, 4, 3]
    assert computed == sum(targets[i] for group in groups if group - set(before) for i in group)
    assert hashes(tmp_path / "flow") == hashes(tmp_path / "undisturbed")


def test_what_goes_through_a_network_together_does_not_depend_on_what_was_finished(tmp_path, monkeypatch, raft):
    seen = []
    group_flows = RaftSession.group_flows

    def noted(self, plan, advance):
        seen.append(dict(plan))
        return group_flows(self, plan, advance)

    monkeypatch.setattr(RaftSession, "group_flows", noted)
    monkeypatch.setattr(FlowShardWriter, "has", lambda self, source, targets: source in (0, 1, 3))
    monkeypatch.setattr(FlowShardWriter, "write", lambda *given: None)
    monkeypatch.setattr(FlowShardWriter, "publish", lambda self: None)
    compute(tmp_path / "flow", frames=shifted_texture(7, (40, 48)), options=raft)
    assert [list(group) for group in seen] == [[0, 1, 2], [3, 4, 5], [6]]


@pytest.mark.parametrize(
    "change",
    [
        {"frames": FRAMES[::-1]},
        {"options": OPTIONS.model_copy(update={"quality": "fast"})},
        {"options": OPTIONS.model_copy(update={"resolution": 40})},
        {"queries": (2,)},
        {"shard": (0, 2)},
    ],
)
def test_an_interrupted_run_of_other_work_is_not_taken_over(tmp_path, monkeypatch, change):
    with monkeypatch.context() as patch:
        interrupt(patch, 4)
        with pytest.raises(KeyboardInterrupt):
            compute(tmp_path / "flow")
    again = interrupt(monkeypatch, 99)
    compute(tmp_path / "flow", **change)
    assert again[0] == 0
    compute(tmp_path / "fresh", **change)
    assert hashes(tmp_path / "flow") == hashes(tmp_path / "fresh")


def test_one_frame_has_no_flows_and_an_artifact_all_the_same(tmp_path):
    assert compute(tmp_path / "flow", frames=FRAMES[:1], queries=(0,)) == 0
    store = FlowStore([tmp_path / "flow"])
    assert store.sources() == []
    assert store.size == (48, 64)


def test_the_end_is_said_in_the_log(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    compute(tmp_path / "flow", shard=(1, 2))
    assert any("dis flow, shard 2 of 2" in line and "pairs in" in line for line in caplog.messages)


def test_the_hash_of_frames_sees_pixels_and_shape():
    assert run.frames_hash(FRAMES) == run.frames_hash(FRAMES.copy())
    assert run.frames_hash(FRAMES) != run.frames_hash(FRAMES.reshape(6, 64, 48, 3))
    changed = FRAMES.copy()
    changed[5, 47, 63, 2] ^= 1
    assert run.frames_hash(FRAMES) != run.frames_hash(changed)
