"""What counts as a video, what it is called, and what is refused."""

from __future__ import annotations

import logging
import os
import pickle
import re

import numpy as np
import pytest

from everypoint.errors import InputError
from everypoint.video.discover import discover
from everypoint.video.names import slug
from everypoint.video.tapvid import index_of


def touch(path, data=b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def names(entries):
    return [entry.name for entry in entries]


def test_mixed_folder_in_natural_order(tmp_path, caplog):
    for name in ("b10.mp4", "b9.MOV", "c.webm", "d.avi", "e.mkv", "f.Gif", ".hidden.mp4", "notes.txt", "g.mp4.part"):
        touch(tmp_path / name)
    for name in (
        "walk/2.jpg",
        "walk/10.jpg",
        "dance/color/0.PNG",
        "dance/mask/0.png",
        "empty/readme.md",
        ".cache/1.jpg",
    ):
        touch(tmp_path / name)
    with caplog.at_level(logging.WARNING):
        entries = discover(tmp_path)
    assert names(entries) == ["b9", "b10", "c", "d", "dance", "e", "f", "walk"]
    kinds = {entry.name: entry.kind for entry in entries}
    assert kinds["walk"] == kinds["dance"] == "images"
    assert kinds["b9"] == "video"
    dance = entries[names(entries).index("dance")]
    assert dance.path == tmp_path / "dance" / "color"
    assert dance.mask == tmp_path / "dance" / "mask"
    assert "notes.txt" in caplog.text
    assert "empty" in caplog.text
    assert "hidden" not in caplog.text


def test_sidecars_are_attached_and_orphans_are_said(tmp_path, caplog):
    for name in ("a.mp4", "a.annotations.npz", "a.queries.csv", "a.mask.png", "lost.queries.csv", "seq/1.jpg"):
        touch(tmp_path / name)
    touch(tmp_path / "seq.queries.csv")
    touch(tmp_path / "seq.mask" / "1.png")
    with caplog.at_level(logging.WARNING):
        a, seq = discover(tmp_path)
    assert (a.annotations, a.queries, a.mask) == tuple(
        tmp_path / name for name in ("a.annotations.npz", "a.queries.csv", "a.mask.png")
    )
    assert (seq.queries, seq.mask) == (tmp_path / "seq.queries.csv", tmp_path / "seq.mask")
    assert "lost.queries.csv" in caplog.text
    assert "a.mask.png" not in caplog.text


@pytest.mark.parametrize("layout", ["flat", "color", "color and mask and work"])
def test_one_sequence_given_by_itself(tmp_path, layout):
    folder = tmp_path / "walk"
    touch(folder / ("1.jpg" if layout == "flat" else "color/1.jpg"))
    if layout.endswith("work"):
        touch(folder / "mask" / "1.png")
        touch(folder / "count_maps" / "1.png")
    touch(tmp_path / "walk.queries.csv")
    (entry,) = discover(folder)
    assert (entry.name, entry.kind, entry.path.name) == ("walk", "images", "walk" if layout == "flat" else "color")
    assert entry.queries == tmp_path / "walk.queries.csv"
    assert (entry.mask is None) == (not layout.endswith("work"))


def test_a_processed_sequence_given_by_itself_is_one_video(tmp_path):
    """What preprocessing leaves beside ``color`` are pictures too, in other folders."""
    for name in ("color/1.jpg", "raft_masks/1.jpg_2.jpg.png", "count_maps/1.png", "full_mask/1_2.png"):
        touch(tmp_path / "walk" / name)
    (entry,) = discover(tmp_path / "walk")
    assert (entry.name, entry.path) == ("walk", tmp_path / "walk/color")
    (entry,) = discover(tmp_path)
    assert (entry.name, entry.path) == ("walk", tmp_path / "walk/color")


def test_one_file_given_by_itself(tmp_path):
    touch(tmp_path / "a.mp4")
    touch(tmp_path / "b.mp4")
    touch(tmp_path / "a.mask.png")
    (entry,) = discover(tmp_path / "a.mp4")
    assert (entry.name, entry.kind, entry.mask) == ("a", "video", tmp_path / "a.mask.png")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda root: root / "nowhere", "does not exist"),
        (lambda root: root, "holds no videos"),
        (lambda root: touch(root / "x.txt").parent, "x.txt"),
        (lambda root: touch(root / "x.txt"), "not a video file"),
        (lambda root: None, "no videos are given"),
    ],
)
def test_nothing_to_do_is_one_sentence(tmp_path, make, says):
    with pytest.raises(InputError) as error:
        discover(make(tmp_path), None)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


# ------------------------------------------------------------------------------------------------ names

HOSTILE = [
    "$(touch x).mp4",
    '"; touch x;.mp4',
    "-i.mp4",
    "line\nbreak.mp4",
    "<img src=x onerror=alert(1)>.mp4",
    "Ünïcödé 映像.mp4",
    "x" * 251 + ".mp4",
    "...mp4.mp4",
    "a'b`c|d&e;f.mp4",
    "映像.mp4",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_become_safe_ones(tmp_path, name):
    if name.startswith("."):
        name = "-" + name
    touch(tmp_path / name)
    (entry,) = discover(tmp_path)
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}", entry.name)
    assert re.search(r"-[0-9a-f]{6}$", entry.name)
    assert entry.path == tmp_path / name
    assert discover(tmp_path) == [entry]


def test_undecodable_bytes_in_a_name(tmp_path):
    touch(tmp_path / os.fsdecode(b"caf\xe9.mp4"))
    touch(tmp_path / os.fsdecode(b"\xff.txt"))
    (entry,) = discover(tmp_path)
    assert entry.name.startswith("caf-")


def test_names_collide_neither_by_suffix_nor_by_case(tmp_path):
    for name in ("a.mp4", "a.mov", "A.mkv", "b c.mp4", "b-c.mp4", "plain.mp4", "report.html.mp4", "x.mp4"):
        touch(tmp_path / name)
    found = names(discover(tmp_path))
    assert len({name.casefold() for name in found}) == len(found) == 8
    assert {"plain", "x"} <= set(found)
    assert "report.html" not in found
    assert "a" not in found


def test_a_name_that_pretends_to_be_anothers(tmp_path):
    touch(tmp_path / "b c.mp4")
    (taken,) = names(discover(tmp_path))
    touch(tmp_path / f"{taken}.mp4")
    found = names(discover(tmp_path))
    assert len(set(found)) == 2


def test_slug_keeps_what_is_safe():
    assert slug("A-b_c.9") == "A-b_c.9"
    assert slug("-.-x") == "x"
    assert slug("") == slug("..") == "video"
    assert len(slug("y" * 300)) == 64


# ------------------------------------------------------------------------------------------------ links


def test_links_that_lead_outside_are_skipped(tmp_path, caplog):
    outside = touch(tmp_path / "outside" / "secret.mp4").parent
    touch(outside / "images" / "1.jpg")
    root = tmp_path / "videos"
    touch(root / "real.mp4")
    touch(root / "SEQ" / "1.jpg")
    (root / "out.mp4").symlink_to(outside / "secret.mp4")
    (root / "dots.mp4").symlink_to("../outside/secret.mp4")
    (root / "pictures").symlink_to(outside / "images")
    (root / "SEQ" / "color").symlink_to(outside / "images")
    (root / "real.queries.csv").symlink_to(outside / "secret.mp4")
    (root / "inside.mp4").symlink_to("real.mp4")
    (root / "dangling.mp4").symlink_to("gone.mp4")
    with caplog.at_level(logging.WARNING):
        entries = discover(root)
    assert sorted(names(entries)) == ["SEQ", "inside", "real"]
    assert next(entry for entry in entries if entry.name == "SEQ").path == root / "SEQ"
    assert all(entry.queries is None for entry in entries)
    for name in ("out.mp4", "dots.mp4", "pictures"):
        assert name in caplog.text


def test_a_folder_of_links_only_says_so(tmp_path):
    touch(tmp_path / "outside.mp4")
    root = tmp_path / "videos"
    root.mkdir()
    (root / "a.mp4").symlink_to(tmp_path / "outside.mp4")
    with pytest.raises(InputError, match=r"lead outside the folder: a\.mp4"):
        discover(root)


def test_hundreds_of_entries(tmp_path):
    for index in range(300):
        os.close(os.open(tmp_path / f"v{index}.mp4", os.O_CREAT | os.O_WRONLY))
    entries = discover(tmp_path)
    assert names(entries) == [f"v{index}" for index in range(300)]


# ------------------------------------------------------------------------------------------------ TAP-Vid files


def item(frames=3):
    return {
        "video": np.zeros((frames, 4, 4, 3), np.uint8),
        "points": np.zeros((2, frames, 2), np.float32),
        "occluded": np.zeros((2, frames), bool),
    }


def write_pickle(path, value):
    return touch(path, pickle.dumps(value))


def test_entries_of_a_dict_and_of_a_list(tmp_path):
    davis = write_pickle(tmp_path / "davis.pkl", {"goat": item(), "a b": item()})
    entries = discover(None, davis)
    assert [(entry.kind, entry.key, entry.path) for entry in entries] == [
        ("tapvid", "goat", davis),
        ("tapvid", "a b", davis),
    ]
    assert entries[0].name == "goat"
    assert entries[1].name.startswith("a-b-")
    stacking = write_pickle(tmp_path / "stacking.pkl", [item(), item()])
    assert [(entry.name, entry.key) for entry in discover(None, stacking)] == [
        ("stacking-000", "0"),
        ("stacking-001", "1"),
    ]


def test_shards_of_a_folder(tmp_path):
    write_pickle(tmp_path / "0001_of_0002.pkl", [item()])
    write_pickle(tmp_path / "0000_of_0002.pkl", [item(), item()])
    write_pickle(tmp_path / "other.pkl", [item()])
    found = names(discover(None, tmp_path))
    assert found == ["0000_of_0002-000", "0000_of_0002-001", "0001_of_0002-000"]


def test_videos_and_data_set_together(tmp_path):
    touch(tmp_path / "videos" / "goat.mp4")
    entries = discover(tmp_path / "videos", write_pickle(tmp_path / "davis.pkl", {"goat": item(), "dog": item()}))
    assert [entry.kind for entry in entries] == ["video", "tapvid", "tapvid"]
    assert len({entry.name for entry in entries}) == 3
    assert entries[2].name == "dog"


@pytest.mark.parametrize("value", [{}, [], 3, {1: 2}, "text"])
def test_other_pickles_are_refused(tmp_path, value):
    with pytest.raises(InputError, match="not a TAP-Vid file"):
        discover(None, write_pickle(tmp_path / "x.pkl", value))


@pytest.mark.parametrize(("name", "says"), [("nowhere.pkl", "does not exist"), ("", "holds no shards")])
def test_missing_data_sets(tmp_path, name, says):
    with pytest.raises(InputError, match=says):
        discover(None, tmp_path / name)


def test_the_index_is_remembered_until_the_file_changes(tmp_path, monkeypatch):
    path = write_pickle(tmp_path / "d.pkl", {"one": item()})
    cache = tmp_path / "cache"
    assert index_of(path, cache) == ["one"]
    with monkeypatch.context() as patch:
        patch.setattr("everypoint.video.tapvid.load_arrays_pickle", lambda path: pytest.fail("opened again"))
        assert index_of(path, cache) == ["one"]
        assert names(discover(None, path, cache)) == ["one"]
    write_pickle(path, {"two": item(), "three": item()})
    assert index_of(path, cache) == ["two", "three"]
    next(cache.iterdir()).write_text("{broken")
    assert index_of(path, cache) == ["two", "three"]
