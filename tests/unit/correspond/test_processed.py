"""Flows of a processed folder: read as they are, with their masks, for whatever frames and names; refused in words."""

from __future__ import annotations

import logging
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from everypoint.artifacts import flows
from everypoint.artifacts.flows import FlowStore
from everypoint.artifacts.folder import sha256_of
from everypoint.artifacts.matches import CYCLE, OCCLUDED
from everypoint.artifacts.video import VideoMeta
from everypoint.config.options import FlowOptions, PairOptions
from everypoint.correspond.base import GroupedFlows, StoredFlows, StoredMasks, flow_backend
from everypoint.correspond.processed import ProcessedSession
from everypoint.correspond.processed_statistics import check_statistics
from everypoint.correspond.run import compute_flows
from everypoint.errors import InputError
from everypoint.video.images import resize_frame
from everypoint.video.processed_folder import ProcessedFolder
from tests.unit.correspond import ancestor
from tests.unit.correspond.ancestor import FRAMES, SIZE, names_of

MADE = ancestor.sequence()
EXHAUSTIVE = PairOptions(plan="exhaustive")
ALL = [(i, j) for i in range(FRAMES) for j in range(FRAMES) if i != j]


def meta(start: int = 0, stride: int = 1, size=SIZE, original=SIZE) -> VideoMeta:
    count = len(range(start, FRAMES, stride))
    return VideoMeta("dog", "dog", "abc", 25.0, count, *size, *original, start=start, stride=stride)


def compute(out: Path, place: Path | None, *, pairs=EXHAUSTIVE, shard=(0, 1), of=None, frames=None) -> FlowStore:
    of = of or meta()
    frames = MADE.images[of.start :: of.stride] if frames is None else frames
    options = FlowOptions(backend="processed", pairs=pairs)
    compute_flows(frames, options, (), shard, out, "cpu", "abc", place=place, meta=of)
    return FlowStore([out])


def flags_of(mask: np.ndarray) -> np.ndarray:
    return (mask[..., 0] > 0) * CYCLE + (mask[..., 1] > 0) * OCCLUDED


def check_all(store: FlowStore, used: list[int] | None = None) -> None:
    """Every pair of working frames holds what the folder has for the images ``used``."""
    used = used or list(range(FRAMES))
    for a, i in enumerate(used):
        assert store.targets(a) == [b for b in range(len(used)) if b != a]
        assert store.has_masks(a)
        for b in store.targets(a):
            j = used[b]
            assert np.abs(store.flow(a, b) - MADE.flows[i, j]).max() <= 1 / 64
            assert np.array_equal(store.mask(a, b), flags_of(MADE.masks[i, j]))


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    return ancestor.write(tmp_path_factory.mktemp("processed") / "dog", MADE, names_of())


@pytest.fixture
def place(written, tmp_path) -> Path:
    """A folder of the test's own."""
    return Path(shutil.copytree(written, tmp_path / "dog"))


def pair(place: Path, i: int, j: int, part: str = "raft_exhaustive") -> Path:
    suffix = ".npy" if part == "raft_exhaustive" else ".png"
    return place / part / f"{i:05d}.jpg_{j:05d}.jpg{suffix}"


# ------------------------------------------------------------------------------------------------ what arrives


def test_the_fabricated_folder_is_worth_reading():
    """Both classes occur, and chaining changed flows: else the tests below would show nothing."""
    masks = np.stack([flags_of(MADE.masks[pair]) for pair in ALL])
    assert 0.2 < (masks == CYCLE).mean() < 0.9
    assert (masks == OCCLUDED).mean() > 0.01
    assert np.abs(MADE.flows[0, 4] - MADE.raw_flows[0, 4]).max() > 5


def test_chained_flows_and_masks_arrive_in_the_store(written, tmp_path, caplog):
    check_all(compute(tmp_path / "flow", written))
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_flows_take_half_of_the_bytes_and_masks_two_bits_a_pixel(written, tmp_path):
    compute(tmp_path / "flow", written)
    theirs = sum(path.stat().st_size - 128 for path in (written / "raft_exhaustive").iterdir())
    sizes = {path.name: path.stat().st_size - 128 for path in (tmp_path / "flow").glob("0*.npy")}
    assert sum(size for name, size in sizes.items() if "mask" not in name) == theirs // 2
    assert sum(size for name, size in sizes.items() if "mask" in name) == len(ALL) * SIZE[0] * SIZE[1] // 4


@pytest.mark.parametrize(("start", "stride"), [(1, 1), (0, 2), (1, 2)])
def test_frames_are_those_of_the_source(written, tmp_path, start, stride):
    store = compute(tmp_path / "flow", written, of=meta(start, stride))
    check_all(store, list(range(FRAMES))[start::stride])


def test_shards_hold_together_what_one_job_reads(written, tmp_path):
    whole = compute(tmp_path / "whole", written)
    for k in range(3):
        compute(tmp_path / f"{k}", written, shard=(k, 3))
    union = FlowStore([tmp_path / f"{k}" for k in range(3)])
    for i in whole.sources():
        assert union.targets(i) == whole.targets(i)
        for j in whole.targets(i):
            assert np.array_equal(union.flow(i, j), whole.flow(i, j))
            assert np.array_equal(union.mask(i, j), whole.mask(i, j))


def test_protocols_of_what_is_stored(written):
    backend = flow_backend(FlowOptions(backend="processed"))
    assert isinstance(backend, StoredFlows)
    assert not isinstance(flow_backend(FlowOptions(backend="dis")), StoredFlows)
    with pytest.raises(ValueError, match="locate"):
        backend.open(MADE.images)
    assert backend.locate({0: [1], 1: [0]}, MADE.images, written, meta()) == {0: [1], 1: [0]}
    session = backend.open(MADE.images)
    assert isinstance(session, StoredMasks)
    assert isinstance(session, GroupedFlows)
    flows = session.flows(0, [3, 1])
    assert flows.dtype == np.float32
    assert np.array_equal(flows, [MADE.flows[0, 3], MADE.flows[0, 1]])
    with pytest.raises(InputError, match="00000.jpg_00000.jpg.npy is missing"):
        session.flows(0, [0])


# ------------------------------------------------------------------------------------------- names and places


@pytest.mark.parametrize(
    ("parents", "pattern"),
    [
        ("color", "{:05d}.jpg"),
        ("raft_exhaustive/color", "{:05d}.jpg"),
        ("my videos", "frame {:d} of it.jpg"),
        (".", "{:05d}.png"),
        (".", "IMG_{:d}_a.PNG"),
        (".", "{:02d}.color.bmp"),
    ],
)
def test_any_place_and_any_names(tmp_path, parents, pattern):
    place = ancestor.write(tmp_path / parents / "dog", MADE, names_of(pattern))
    check_all(compute(tmp_path / "flow", place))


def test_links_are_followed(written, tmp_path):
    (tmp_path / "far").symlink_to(written)
    check_all(compute(tmp_path / "a", tmp_path / "far"))
    (tmp_path / "dog").mkdir()
    for part in written.iterdir():
        (tmp_path / "dog" / part.name).symlink_to(part)
    check_all(compute(tmp_path / "b", tmp_path / "dog"))


@pytest.mark.parametrize("where", ["beside the parts", "only in the statistics"])
def test_images_may_lie_elsewhere(place, tmp_path, where):
    if where == "beside the parts":
        for image in (place / "color").iterdir():
            image.rename(place / image.name)
    shutil.rmtree(place / "color")
    check_all(compute(tmp_path / "flow", place))


# ------------------------------------------------------------------------------------------------ kinds of files


@pytest.mark.parametrize("kind", ["<f2", ">f4", "<f8"])
def test_other_floats(place, tmp_path, kind):
    for path in (place / "raft_exhaustive").iterdir():
        np.save(path, np.load(path).astype(kind))
    store = compute(tmp_path / "flow", place)
    exact = 1 / 64 + (0.01 if kind == "<f2" else 0)
    assert max(np.abs(store.flow(i, j) - MADE.flows[i, j]).max() for i, j in ALL) <= exact


def repaint(place: Path, part: str, change) -> None:
    """Rewrite all masks of a part through a function of the published mask."""
    (place / part).mkdir(exist_ok=True)
    for i, j in ALL:
        Image.fromarray(change(MADE.masks[i, j])).save(pair(place, i, j, part))


@pytest.mark.parametrize(
    "change", [lambda m: m[..., 0], lambda m: m[..., [0, 0, 0]], lambda m: m[..., 0] > 0], ids=["2-D", "RGB", "1 bit"]
)
def test_a_grey_mask_is_cycle(place, tmp_path, change):
    repaint(place, "raft_masks", change)
    store = compute(tmp_path / "flow", place)
    for i, j in ALL:
        assert np.array_equal(store.mask(i, j), (MADE.masks[i, j][..., 0] > 0) * CYCLE)


FULL = [
    lambda m: m[..., 0] | m[..., 1],
    lambda m: np.repeat((m[..., 0] | m[..., 1])[..., None], 3, axis=2),
    lambda m: np.dstack([m[..., 0] | m[..., 1]] * 3 + [np.full(SIZE, 255, np.uint8)]),
]


def half(mask: np.ndarray) -> np.ndarray:
    """A mask as a depth mask of the left half cuts it."""
    return mask * (np.arange(SIZE[1]) < SIZE[1] // 2)[None, :, None].astype(np.uint8)


@pytest.mark.parametrize("change", FULL, ids=["2-D", "RGB", "RGBA"])
@pytest.mark.parametrize("stems", [True, False])
def test_a_full_mask_cuts_both_classes(place, tmp_path, change, stems):
    repaint(place, "full_mask", lambda mask: change(half(mask)))
    if stems:
        for path in list((place / "full_mask").iterdir()):
            path.rename(path.with_name(path.name.replace(".jpg", "")))
    store = compute(tmp_path / "flow", place)
    for i, j in ALL:
        assert np.array_equal(store.mask(i, j), flags_of(half(MADE.masks[i, j])))


def test_a_full_mask_alone_is_cycle(place, tmp_path):
    repaint(place, "full_mask", FULL[0])
    shutil.rmtree(place / "raft_masks")
    store = compute(tmp_path / "flow", place)
    for i, j in ALL:
        assert np.array_equal(store.mask(i, j), (flags_of(MADE.masks[i, j]) > 0) * CYCLE)


def test_what_cannot_be_stored_is_trusted_by_no_mask(place, tmp_path):
    flow = MADE.flows[0, 1].copy()
    flow[3, 4] = 5000.0, 0.0
    flow[5, 6] = np.nan
    np.save(pair(place, 0, 1), flow)
    store = compute(tmp_path / "flow", place)
    assert np.array_equal(np.argwhere(np.isnan(store.flow(0, 1)).any(-1)), [[3, 4], [5, 6]])
    expected = flags_of(MADE.masks[0, 1])
    assert expected[3, 4]
    expected[3, 4] = expected[5, 6] = 0
    assert np.array_equal(store.mask(0, 1), expected)


# ---------------------------------------------------------------------------------------------- parts of a folder


def test_without_masks_there_are_flows(place, tmp_path):
    shutil.rmtree(place / "raft_masks")
    store = compute(tmp_path / "flow", place)
    assert not any(store.has_masks(i) for i in range(FRAMES))
    assert np.abs(store.flow(0, 5) - MADE.flows[0, 5]).max() <= 1 / 64


def test_a_source_with_a_missing_mask_has_none(place, tmp_path):
    pair(place, 2, 4, "raft_masks").unlink()
    store = compute(tmp_path / "flow", place)
    assert [store.has_masks(i) for i in range(FRAMES)] == [True, True, False, True, True, True]
    assert store.has(2, 4)


def test_pairs_that_are_not_there_are_left_out_in_both_directions(place, tmp_path, caplog):
    pair(place, 1, 3).unlink()
    pair(place, 5, 0).unlink()
    pair(place, 0, 5).unlink()
    store = compute(tmp_path / "flow", place)
    missing = [(i, j) for i, j in ALL if not store.has(i, j)]
    assert missing == [(0, 5), (1, 3), (3, 1), (5, 0)]
    assert "4 of 30 planned pairs are not in raft_exhaustive and are left out" in caplog.messages
    assert np.abs(store.flow(0, 4) - MADE.flows[0, 4]).max() <= 1 / 64


def test_a_plan_takes_no_more_than_it_asks_for(written, tmp_path, caplog):
    store = compute(tmp_path / "flow", written, pairs=PairOptions(plan="window", window=2))
    assert store.targets(0) == [1, 2]
    assert np.array_equal(store.mask(3, 1), flags_of(MADE.masks[3, 1]))
    assert caplog.messages == []  # count maps over more targets than were read are not compared


def test_nothing_there_is_one_sentence(place, tmp_path):
    with pytest.raises(InputError, match="00000.jpg_00001.jpg.npy is missing; choose flow.pairs"):
        for path in (place / "raft_exhaustive").glob("*[135].jpg.npy"):
            path.unlink()
        compute(tmp_path / "flow", place, pairs=PairOptions(plan="intervals", intervals=(1,)))
    shutil.rmtree(place / "raft_exhaustive")
    with pytest.raises(InputError, match="has nothing in raft_exhaustive"):
        compute(tmp_path / "flow", place)


# ------------------------------------------------------------------------------------------------------ statistics


def folder(place: Path, of: VideoMeta | None = None) -> ProcessedFolder:
    of = of or meta()
    return ProcessedFolder(place, of, MADE.images[of.start :: of.stride], "flow.folder")


def test_statistics_recomputed_from_the_masks_are_those_on_disk(written):
    assert check_statistics(folder(written)) == ""


def flip_mask(place: Path) -> str:
    mask = MADE.masks[2, 4].copy()
    mask[7, 9, 0] ^= 255
    Image.fromarray(mask).save(pair(place, 2, 4, "raft_masks"))
    return "flow_stats.json says .* for 00002.jpg, 00004.jpg and raft_masks has"


def swap_pixels_of_a_mask(place: Path) -> str:
    """The sum stays, so that only the count map tells."""
    Image.fromarray(MADE.masks[2, 4][:, ::-1]).save(pair(place, 2, 4, "raft_masks"))
    return "the count map of 00002.jpg says . at x .*, y .* and raft_masks have"


def alter_statistics(place: Path) -> str:
    path = place / "flow_stats.json"
    count = int((MADE.masks[3, 1] > 0).sum())
    text = path.read_text()
    before, after = text.split('"00003.jpg": {', 1)
    path.write_text(before + '"00003.jpg": {' + after.replace(f'"00001.jpg": {count}', f'"00001.jpg": {count + 1}', 1))
    return f"flow_stats.json says {count + 1} set entries for 00003.jpg, 00001.jpg and raft_masks has {count}$"


def alter_count_map(place: Path) -> str:
    path = place / "count_maps/00004.png"
    counts = np.array(Image.open(path))
    counts[5, 6] += 1
    Image.fromarray(counts).save(path)
    return "the count map of 00004.jpg says . at x 6, y 5 and raft_masks have"


def raw_masks_again(place: Path) -> str:
    """The masks of the filter before chaining, with the statistics of the chain."""
    for (i, j), mask in ancestor.filtered(MADE.raw_flows, MADE.features).items():
        image = np.dstack([mask, np.zeros(SIZE, bool)]).astype(np.uint8) * 255
        Image.fromarray(image).save(pair(place, i, j, "raft_masks"))
    return "flow_stats.json says .* for 00000.jpg, 0000"


@pytest.mark.parametrize(
    "change", [flip_mask, swap_pixels_of_a_mask, alter_statistics, alter_count_map, raw_masks_again]
)
def test_the_first_disagreement_is_warned_of_once(place, tmp_path, caplog, change):
    expected = change(place)
    assert re.search(expected, check_statistics(folder(place)))
    caplog.clear()
    compute(tmp_path / "flow", place)
    found = [message for message in caplog.messages if re.search(expected.rstrip("$"), message)]
    assert len(found) == 1
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("content", [b"{", b"[1]", b'{"00000.jpg": 3}', b'{"00000.jpg": {"00001.jpg": "x"}}'])
def test_damaged_statistics_do_not_stop_anything(place, tmp_path, caplog, content):
    (place / "flow_stats.json").write_bytes(content)
    check_all(compute(tmp_path / "flow", place))
    assert any("flow_stats.json" in message for message in caplog.messages)


@pytest.mark.parametrize("damage", ["bytes", "size"])
def test_damaged_count_maps_do_not_stop_anything(place, tmp_path, caplog, damage):
    path = place / "count_maps/00001.png"
    if damage == "bytes":
        path.write_bytes(b"no picture")
    else:
        Image.fromarray(np.zeros((3, 4), np.uint8)).save(path)
    check_all(compute(tmp_path / "flow", place))
    assert len(caplog.messages) == 1


# --------------------------------------------------------------------------------------------- killed and resumed


def interrupt(monkeypatch, after: int, method: str = "_flow") -> list[int]:
    """Let ``after`` pairs pass and stop at the next; returns the sources of the pairs read."""
    done: list[int] = []
    original = getattr(ProcessedSession, method)

    def replaced(self, source, target):
        if len(done) == after:
            raise KeyboardInterrupt
        done.append(source)
        return original(self, source, target)

    monkeypatch.setattr(ProcessedSession, method, replaced)
    return done


def hashes(path: Path) -> dict[str, str]:
    return {item.name: sha256_of(item) for item in sorted(path.iterdir())}


@pytest.mark.parametrize("method", ["_flow", "_flags"])
def test_an_interrupted_run_goes_on_and_gives_equal_bytes(written, tmp_path, monkeypatch, method):
    monkeypatch.setattr(flows, "BLOCK_MB", 0.0)  # a file a source
    compute(tmp_path / "whole", written)
    with monkeypatch.context() as patch:
        interrupt(patch, 4 * (FRAMES - 1) + 2, method)  # amidst the fifth source
        with pytest.raises(KeyboardInterrupt):
            compute(tmp_path / "flow", written)
    again = interrupt(monkeypatch, 99, method)
    check_all(compute(tmp_path / "flow", written))
    assert again == [4] * (FRAMES - 1) + [5] * (FRAMES - 1)
    assert hashes(tmp_path / "flow") == hashes(tmp_path / "whole")


def grow_a_mask(place: Path) -> None:
    random = np.random.default_rng(0).integers(0, 2, SIZE, np.uint8)
    Image.fromarray(random * 255).save(pair(place, 0, 1, "raft_masks"))


@pytest.mark.parametrize("change", [grow_a_mask, lambda place: pair(place, 0, 1, "raft_masks").unlink()])
def test_an_interrupted_run_of_another_folder_is_not_taken_over(place, tmp_path, monkeypatch, change):
    with monkeypatch.context() as patch:
        interrupt(patch, 22)
        with pytest.raises(KeyboardInterrupt):
            compute(tmp_path / "flow", place)
    change(place)
    again = interrupt(monkeypatch, 99)
    compute(tmp_path / "flow", place)
    assert again == [i for i, _ in ALL]
    compute(tmp_path / "fresh", place)
    assert hashes(tmp_path / "flow") == hashes(tmp_path / "fresh")


# ----------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("size", "original", "cure"),
    [
        ((12, 16), SIZE, r"set frames.max_side and frames.resize to null\.$"),
        ((12, 16), (96, 128), r"set frames.resize to \[24, 32\]\.$"),
        ((24, 30), (24, 30), r"set frames.resize to \[24, 32\]\.$"),
    ],
)
def test_flows_of_another_size_say_which_option_helps(written, tmp_path, size, original, cure):
    frames = np.stack([resize_frame(image, size) for image in MADE.images])
    with pytest.raises(InputError, match=r"00000.jpg_00001.jpg.* it is of shape \(24, 32, 2\).*" + cure):
        compute(tmp_path / "flow", written, of=meta(size=size, original=original), frames=frames)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


DAMAGES = {
    "a truncated flow": lambda place: truncate(pair(place, 1, 2)),
    "an empty flow": lambda place: pair(place, 1, 2).write_bytes(b""),
    "objects": lambda place: np.save(pair(place, 1, 2), np.array([{}])),
    "text": lambda place: np.save(pair(place, 1, 2), np.array(["a"])),
    "one number": lambda place: np.save(pair(place, 1, 2), np.float32(3)),
    "a flow of three channels": lambda place: np.save(pair(place, 1, 2), np.zeros((*SIZE, 3), np.float32)),
    "a truncated mask": lambda place: truncate(pair(place, 1, 2, "raft_masks")),
    "an empty mask": lambda place: pair(place, 1, 2, "raft_masks").write_bytes(b""),
    "a small mask": lambda place: Image.fromarray(MADE.masks[1, 2][:9]).save(pair(place, 1, 2, "raft_masks")),
    "a folder": lambda place: (pair(place, 1, 2).unlink(), pair(place, 1, 2).mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named_and_nobody_is_told_to_delete_it(place, tmp_path, damage):
    DAMAGES[damage](place)
    with pytest.raises(InputError, match=r"00001.jpg_00002.jpg") as caught:
        compute(tmp_path / "flow", place)
    assert "delete" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_that_may_not_be_listed_is_one_sentence(written, tmp_path, monkeypatch):
    def refuse(path, real=os.listdir):
        if Path(path).name == "raft_exhaustive":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(InputError, match="raft_exhaustive cannot be listed: Permission denied"):
        compute(tmp_path / "flow", written)


def test_a_back_end_that_is_not_told_the_video_is_a_defect_of_the_caller(written, tmp_path):
    options = FlowOptions(backend="processed")
    with pytest.raises(ValueError, match="needs to know the video"):
        compute_flows(MADE.images, options, (), (0, 1), tmp_path / "flow", place=written)
