"""Flows on disk: fixed point within half a step, what cannot be stored is NaN, damage is seen."""

from __future__ import annotations

import hashlib
import shutil

import numpy as np
import pytest

from everypoint.artifacts import atomic
from everypoint.artifacts.flows import (
    FlowShardWriter,
    FlowStore,
    decode_flow,
    decode_masks,
    encode_flow,
    encode_masks,
)
from everypoint.artifacts.matches import CYCLE, LONG_RANGE, OCCLUDED
from everypoint.errors import ArtifactError

SIZE = (6, 8)


def flows(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 20, (count, *SIZE, 2)).astype(np.float32)


def write(folder, sources=(0, 1, 2), size=SIZE, block_mb=0.0):
    """Sources with three flows each; a file a source unless it says otherwise."""
    writer = FlowShardWriter(folder, "test", size, block_mb)
    for source in sources:
        targets = [t for t in range(5) if t != source][-3:] if source > 3 else [t for t in range(4) if t != source]
        writer.write(source, targets, flows(3, source))
    writer.publish()
    return folder


# ---------------------------------------------------------------------------------------------------- encoding


def test_encoding_errs_by_half_a_step_at_most():
    values = np.linspace(-1023.9, 1023.9, 100001, dtype=np.float32)
    assert np.abs(decode_flow(encode_flow(values)) - values).max() <= 1 / 64


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1024.0, -1024.0, 3e38])
def test_what_cannot_be_stored_is_nan(value):
    assert np.isnan(decode_flow(encode_flow(np.array([value], np.float32)))).all()


@pytest.mark.parametrize("value", [0.0, 1 / 32, -1 / 32, 1023.96875, -1023.96875])
def test_steps_are_exact_up_to_the_ends_of_the_range(value):
    assert decode_flow(encode_flow(np.array([value], np.float32)))[0] == value


# ------------------------------------------------------------------------------------------------------- store


def test_round_trip_in_the_order_of_the_targets(tmp_path):
    writer = FlowShardWriter(tmp_path / "s", "test", SIZE)
    writer.write(5, [9, 2], flows(2))
    writer.publish()
    store = FlowStore([tmp_path / "s"])
    assert (store.sources(), store.targets(5), store.size) == ([5], [9, 2], SIZE)
    assert np.abs(store.flow(5, 9) - flows(2)[0]).max() <= 1 / 64
    assert np.abs(store.flow(5, 2) - flows(2)[1]).max() <= 1 / 64
    assert store.flow(5, 2).dtype == np.float32


def test_a_file_a_source_of_half_the_bytes_of_float32(tmp_path):
    write(tmp_path / "s")
    assert sorted(p.name for p in (tmp_path / "s").iterdir()) == [
        "00000.npy",
        "00001.npy",
        "00002.npy",
        "manifest.json",
        "pairs.json",
    ]
    assert (tmp_path / "s/00000.npy").stat().st_size == 128 + flows(3).nbytes // 2


@pytest.mark.parametrize(("flows_a_file", "names"), [(1, "01234"), (4, "024"), (6, "024"), (7, "03"), (100, "0")])
def test_neighbouring_sources_share_a_file_up_to_a_size(tmp_path, flows_a_file, names):
    folder = write(tmp_path / "s", range(5), block_mb=flows_a_file * flows(1).nbytes / 2 / 1e6)
    assert sorted(path.name for path in folder.glob("0*.npy")) == [f"0000{name}.npy" for name in names]
    store = FlowStore([folder])
    for source in range(5):
        for row, target in enumerate(store.targets(source)):
            assert np.abs(store.flow(source, target) - flows(3, source)[row]).max() <= 1 / 64


def test_a_run_that_goes_on_fills_the_same_files(tmp_path):
    def work(folder, stop=99):
        writer = FlowShardWriter(folder, "test", SIZE, 2 * flows(3).nbytes / 2 / 1e6)  # two sources a file
        for source in range(5):
            if source == stop:
                return
            if not writer.has(source, [7, 8, 9]):
                writer.write(source, [7, 8, 9], flows(3, source))
        writer.publish()

    work(tmp_path / "whole")
    work(tmp_path / "s", stop=3)
    again = FlowShardWriter(tmp_path / "s", "test", SIZE)
    assert [again.has(source, [7, 8, 9]) for source in range(5)] == [True, True, False, False, False]
    assert not again.has(0, [7, 8])
    work(tmp_path / "s")
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "s" / path.name).read_bytes() == path.read_bytes()


def test_the_layout_of_one_file_a_source_is_still_read(tmp_path):
    folder = write(tmp_path / "s")
    pairs = atomic.read_json(folder / "pairs.json")
    del pairs["files"]
    atomic.write_json(folder / "pairs.json", pairs)
    manifest = atomic.read_json(folder / "manifest.json")
    data = (folder / "pairs.json").read_bytes()
    manifest["items"]["pairs.json"] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    atomic.write_json(folder / "manifest.json", manifest)
    assert np.abs(FlowStore([folder]).flow(2, 3) - flows(3, 2)[2]).max() <= 1 / 64


def test_shards_are_read_as_one(tmp_path):
    store = FlowStore([write(tmp_path / "a", (2,)), write(tmp_path / "b", (0, 1))])
    assert store.sources() == [0, 1, 2]
    assert np.abs(store.flow(2, 3) - flows(3, 2)[2]).max() <= 1 / 64


def test_a_pair_that_was_not_planned_is_one_sentence(tmp_path):
    store = FlowStore([write(tmp_path / "s")])
    assert store.has(0, 3)
    assert not store.has(3, 0)
    assert not store.has(0, 0)
    assert store.targets(3) == []
    with pytest.raises(ArtifactError, match="no flow 3 -> 0"):
        store.flow(3, 0)


def test_shards_of_different_sizes_are_refused(tmp_path):
    write(tmp_path / "a", (0,))
    writer = FlowShardWriter(tmp_path / "b", "test", (8, 6))
    writer.write(1, [0], np.zeros((1, 8, 6, 2), np.float32))
    writer.publish()
    with pytest.raises(ArtifactError, match="another video size"):
        FlowStore([tmp_path / "a", tmp_path / "b"])


@pytest.mark.parametrize("shape", [(2, *SIZE, 2), (3, 8, 6, 2), (3, *SIZE, 3)])
def test_flows_of_a_wrong_shape_are_a_defect_of_the_caller(tmp_path, shape):
    writer = FlowShardWriter(tmp_path / "s", "test", SIZE)
    with pytest.raises(ValueError, match="do not fit"):
        writer.write(0, [1, 2, 3], np.zeros(shape, np.float32))


def test_a_resumed_writer_knows_sources_with_as_many_targets_only(tmp_path):
    FlowShardWriter(tmp_path / "s", "test", SIZE, 0.0).write(0, [1, 2], flows(2))
    writer = FlowShardWriter(tmp_path / "s", "test", SIZE)
    assert writer.has(0, [1, 2])
    assert not writer.has(0, [1, 2, 3])
    assert not writer.has(1, [0])
    writer.publish()
    assert FlowStore([tmp_path / "s"]).targets(0) == [1, 2]


# ------------------------------------------------------------------------------------------- tampering (R19)


def flip(path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", ["delete a flow", "truncate a flow", "delete pairs", "alter pairs", "delete folder"])
def test_a_damaged_shard_is_refused_at_once(tmp_path, damage):
    folder = write(tmp_path / "s")
    if damage == "delete a flow":
        (folder / "00001.npy").unlink()
    elif damage == "truncate a flow":
        (folder / "00001.npy").write_bytes((folder / "00001.npy").read_bytes()[:-2])
    elif damage == "delete pairs":
        (folder / "pairs.json").unlink()
    elif damage == "alter pairs":
        text = (folder / "pairs.json").read_text()
        (folder / "pairs.json").write_text(text.replace("3", "2", 1))
    else:
        shutil.rmtree(folder)
    with pytest.raises(ArtifactError):
        FlowStore([folder])


def test_an_altered_byte_is_seen_when_the_flow_is_read(tmp_path):
    folder = write(tmp_path / "s")
    flip(folder / "00001.npy")
    store = FlowStore([folder])
    assert np.isfinite(store.flow(0, 1)).all()
    for _ in range(2):
        with pytest.raises(ArtifactError, match="00001.npy"):
            store.flow(1, 0)
        with pytest.raises(ArtifactError, match="00001.npy"):
            store.sample(1, 0, np.zeros((1, 2)))


def test_a_file_is_hashed_once(tmp_path, monkeypatch):
    store = FlowStore([write(tmp_path / "s")])
    from everypoint.artifacts import flows as module

    calls = []
    monkeypatch.setattr(module, "sha256_of", lambda path, real=module.sha256_of: calls.append(path) or real(path))
    for _ in range(3):
        store.flow(0, 1)
        store.flow(0, 2)
    assert [path.name for path in calls] == ["00000.npy"]


# ------------------------------------------------------------------------------------------------------ points


def test_sampled_flows_are_bilinear(tmp_path):
    store = FlowStore([write(tmp_path / "s")])
    flow = store.flow(0, 2)
    points = np.array([[2.0, 3.0], [2.25, 3.5], [7.0, 5.0], [-4.0, 99.0]], np.float32)
    found = store.sample(0, 2, points)
    blend = 0.5 * (0.75 * flow[3, 2] + 0.25 * flow[3, 3]) + 0.5 * (0.75 * flow[4, 2] + 0.25 * flow[4, 3])
    assert np.allclose(found, [flow[3, 2], blend, flow[5, 7], flow[5, 0]], atol=1e-4)


def test_journal_of_a_kill_is_not_published(tmp_path):
    folder = write(tmp_path / "s")
    assert not list(folder.glob("journal*"))
    assert atomic.read_json(folder / "manifest.json")["count"] == 4


# ------------------------------------------------------------------------------------------------------- masks


def masks(count: int, size=SIZE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 4, (count, *size)).astype(np.uint8)


@pytest.mark.parametrize("size", [(1, 1), (3, 3), (6, 8), (5, 7)])
def test_masks_take_two_bits_a_pixel(size):
    flags = masks(3, size)
    stored = encode_masks(flags)
    assert (stored.dtype, stored.shape) == (np.uint8, (3, 2, -(-size[0] * size[1] // 8)))
    for row in range(3):
        assert np.array_equal(decode_masks(stored[row], size), flags[row])
    assert np.array_equal(decode_masks(stored, size), flags)


def test_another_flag_is_a_defect_of_the_caller():
    with pytest.raises(ValueError, match="CYCLE and OCCLUDED"):
        encode_masks(np.full((1, *SIZE), CYCLE | LONG_RANGE, np.uint8))


def write_masked(folder):
    """Source 0 with masks, source 1 without."""
    writer = FlowShardWriter(folder, "test", SIZE)
    writer.write(0, [1, 2, 3], flows(3), masks(3))
    writer.write(1, [0], flows(1))
    writer.publish()
    return folder


def test_masks_come_back_for_the_sources_that_have_them(tmp_path):
    store = FlowStore([write_masked(tmp_path / "a"), write(tmp_path / "b", (2,))])
    assert [store.has_masks(source) for source in (0, 1, 2, 9)] == [True, False, False, False]
    for row, target in enumerate((1, 2, 3)):
        found = store.mask(0, target)
        assert found.dtype == np.uint8
        assert np.array_equal(found, masks(3)[row])
        assert np.abs(store.flow(0, target) - flows(3)[row]).max() <= 1 / 64
    for source, target in ((1, 0), (0, 9), (9, 0)):
        with pytest.raises(ArtifactError, match=f"no mask {source} -> {target}"):
            store.mask(source, target)


def test_a_flow_that_cannot_be_stored_has_no_flag(tmp_path):
    wrong = flows(1)
    wrong[0, 2, 3, 1], wrong[0, 4, 5, 0] = np.nan, 2000
    writer = FlowShardWriter(tmp_path / "s", "test", SIZE)
    writer.write(0, [1], wrong, np.full((1, *SIZE), CYCLE | OCCLUDED, np.uint8))
    writer.publish()
    found = FlowStore([tmp_path / "s"]).mask(0, 1)
    assert np.argwhere(found == 0).tolist() == [[2, 3], [4, 5]]
    assert (found == CYCLE | OCCLUDED).sum() == found.size - 2


def test_masks_of_a_wrong_shape_are_a_defect_of_the_caller(tmp_path):
    writer = FlowShardWriter(tmp_path / "s", "test", SIZE)
    with pytest.raises(ValueError, match="do not fit"):
        writer.write(0, [1, 2], flows(2), masks(1))


def test_a_source_killed_between_mask_and_flow_is_written_again(tmp_path, monkeypatch):
    from everypoint.artifacts import flows as module

    writer = FlowShardWriter(tmp_path / "s", "test", SIZE, 0.0)

    def save(path, real=atomic.mapped_npy):
        if not path.name.endswith(".mask.npy"):
            raise KeyboardInterrupt
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(module.atomic, "mapped_npy", save)
        with pytest.raises(KeyboardInterrupt):
            writer.write(0, [1], flows(1), masks(1))
    writer = FlowShardWriter(tmp_path / "s", "test", SIZE, 0.0)
    assert not writer.has(0, [1])
    writer.write(0, [1], flows(1), masks(1, seed=5))
    writer.publish()
    assert np.array_equal(FlowStore([tmp_path / "s"]).mask(0, 1), masks(1, seed=5)[0])


@pytest.mark.parametrize("damage", ["flip", "delete"])
def test_a_damaged_mask_is_refused(tmp_path, damage):
    path = write_masked(tmp_path / "s") / "00000.mask.npy"
    if damage == "delete":
        path.unlink()
        with pytest.raises(ArtifactError, match="mask.npy is missing or damaged"):
            FlowStore([tmp_path / "s"])
    else:
        flip(path)
        store = FlowStore([tmp_path / "s"])
        store.flow(0, 1)  # its own file is whole
        with pytest.raises(ArtifactError, match="mask.npy is missing or damaged"):
            store.mask(0, 1)
