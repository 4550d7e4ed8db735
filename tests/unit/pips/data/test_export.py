"""Export of clips: the index, reasons of failures, any number of writers, kills and resumption, defects of old."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from everypoint.artifacts import atomic
from everypoint.config.options_export import ExportOptions
from everypoint.errors import InputError
from everypoint.pips.data import clip_files, export, pipeline, sampling, spatial
from everypoint.pips.data.odyssey import sequence_folders
from everypoint.stages.shards import shard_range
from tests.shared import ROOT
from tests.unit.pips.data.sets import SIZE, write_sequence, write_set

pytest.importorskip("albumentations", reason="the extra pips is not installed")

KEYS = {"frames": 5, "points": 12, "size": (80, 112), "resize": (112, 160), "strides": (1, 2), "step": 3}
WRITER = """
import sys
from pathlib import Path
from everypoint.pips.data.export import export_clips, open_export
made = open_export(Path(sys.argv[1]))
export_clips(made, range(len(made.windows)))
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("source"))


def begin(root: Path, place: Path, seed: int = 0, **keys) -> export.Export:
    export.write_index(place, ExportOptions(root=str(root), **{**KEYS, **keys}), seed)
    return export.open_export(place)


def run(made: export.Export) -> dict:
    return export.export_clips(made, range(len(made.windows)))


def files_of(folder: Path) -> dict[str, bytes]:
    """Every clip's files, by their place."""
    found = [path for path in folder.glob("0*/*") if not path.name.startswith(".")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(found)}


@pytest.fixture(scope="module")
def undisturbed(root, tmp_path_factory):
    """The clips of one writer that nobody disturbs, and its counts."""
    folder = tmp_path_factory.mktemp("undisturbed")
    counts = run(begin(root, folder))
    return files_of(folder), counts, folder


def test_counts_and_files(undisturbed):
    files, counts, folder = undisturbed
    assert counts["total"] == 12
    assert counts["clips"] + sum(counts["failed"].values()) == 12
    assert counts["unreadable"] == []
    assert 6 <= counts["clips"] <= 12
    assert counts["failed"]["cropping"] == 12 - counts["clips"]
    assert len(files) == 2 * counts["clips"]
    for name in {path.split("/")[0] for path in files}:
        table = clip_files.read_table(folder / name)
        assert table.shape == (5, 12, 4)
        assert table[..., 3].mean() >= 0.5
        assert (table[:2, table[0, :, 3] > 0, 2:] == 1).all()  # seen and known in the first two frames
        frames = clip_files.read_frames(folder / name, (80, 112), 9)
        assert len(frames) == 5
        assert frames[0].shape == (80, 112, 3)


def test_every_clip_knows_where_it_comes_from(undisturbed, root):
    files, _, folder = undisturbed
    made = export.open_export(folder)
    for name in {path.split("/")[0] for path in files}:
        meta = json.loads(str(atomic.load_npz(folder / name / "track.npz")["meta"]))
        window = made.windows[int(name)]
        assert (meta["sequence"], meta["stride"], meta["start"]) == (
            f"seq{window.sequence}",
            window.stride,
            window.start,
        )


def test_a_second_run_makes_nothing(undisturbed, monkeypatch, root):
    _, counts, folder = undisturbed
    monkeypatch.setattr(export, "draw", lambda *_: pytest.fail("a settled clip was drawn again"))
    assert run(begin(root, folder)) == counts


def test_clips_of_a_range_are_those_of_the_whole(undisturbed, root, tmp_path):
    files, _, _ = undisturbed
    made = begin(root, tmp_path)
    for shard in (3, 1):
        export.export_clips(made, shard_range(12, shard, 4))
    found = files_of(tmp_path)
    assert found
    assert found.items() <= files.items()


def test_the_old_layout_gives_the_same_clips(undisturbed, tmp_path):
    run(begin(write_set(tmp_path / "old", layout="v1.0"), tmp_path / "clips"))
    assert files_of(tmp_path / "clips") == undisturbed[0]


def test_another_seed_gives_other_clips(undisturbed, root, tmp_path):
    made = begin(root, tmp_path, seed=1)
    export.export_clips(made, range(4))
    assert not files_of(tmp_path).items() & undisturbed[0].items()


def wait_for(folder: Path, count: int, *processes: subprocess.Popen) -> None:
    """Until a number of clips is there or the processes have ended."""
    while len(list(folder.glob("0*/track.npz"))) < count and any(process.poll() is None for process in processes):
        with contextlib.suppress(subprocess.TimeoutExpired):
            processes[0].wait(timeout=0.01)


def test_two_writers_one_killed_then_a_third(undisturbed, root, tmp_path):
    """kill -9 in the middle of two writers side by side; the other finishes; damaged clips are made again."""
    files, counts, _ = undisturbed
    begin(root, tmp_path)
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    one, two = (subprocess.Popen(command, cwd=ROOT) for _ in range(2))
    try:
        wait_for(tmp_path, 2, one, two)
        one.send_signal(signal.SIGKILL)
        one.wait()
        assert two.wait(timeout=300) == 0
    finally:
        for process in (one, two):
            process.kill()
            process.wait()
    assert files_of(tmp_path) == files
    names = sorted(files)
    (tmp_path / names[0]).write_bytes(files[names[0]][:-9])  # a damaged video
    (tmp_path / names[3]).unlink()  # a clip whose tracks were not written yet
    made = export.open_export(tmp_path)
    assert run(made) == counts
    assert files_of(tmp_path) == files


@pytest.mark.slow
def test_all_writers_killed_then_resumed(undisturbed, root, tmp_path):
    begin(root, tmp_path)
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], cwd=ROOT) for _ in range(2)]
    wait_for(tmp_path, 3, *writers)
    for process in writers:
        process.kill()
        process.wait()
    assert files_of(tmp_path).keys() <= undisturbed[0].keys()
    run(export.open_export(tmp_path))
    assert files_of(tmp_path) == undisturbed[0]


def test_a_clip_that_another_writer_has_is_left_to_it(root, tmp_path):
    """A claim of another process is respected, and what it leaves undone is done when it ends."""
    made = begin(root, tmp_path)
    (tmp_path / ".claims").touch()
    hold = (
        "import fcntl, sys; f = open(sys.argv[1], 'r+'); fcntl.lockf(f, fcntl.LOCK_EX, 1, 1)\n"
        "print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", hold, str(tmp_path / ".claims")]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"held\n"
        with export._claims(tmp_path / ".claims") as claims:
            assert claims.work
            assert [claims.take(index) for index in (0, 1, 2)] == [True, False, True]
            holder.kill()
            holder.wait()
            assert claims.take(1)
    finally:
        holder.kill()
        holder.wait()
        holder.stdin.close()
        holder.stdout.close()
    export.export_clips(made, range(2))
    assert all(export._is_settled(made, index) for index in range(2))


def test_without_locks_writers_still_make_the_same_clips(undisturbed, root, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    run(begin(root, tmp_path))
    assert files_of(tmp_path) == undisturbed[0]


# ----------------------------------------------------------------------------------------------------- failures


def test_reasons_are_told_and_counted(root, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    counts = run(begin(root, tmp_path / "a", points=201, strides=(1,)))
    assert counts["failed"]["tracks"] == counts["total"] == 8
    assert "returning before cropping: N=" in caplog.text
    assert "need at least N=201" in caplog.text
    assert counts["failed"] == {"tracks": 8, "edges": 0, "cropping": 0, "valid": 0}
    caplog.clear()
    start = begin(root, tmp_path / "b", points=199, strides=(1,), augment=False)
    edges = run(start)
    assert edges["failed"]["edges"] > 0
    assert "returning after edge check: N=" in caplog.text
    assert "_em00_aa_" in caplog.text
    assert "; step 000001/8; this_step 000000; rtime " in caplog.text


def test_half_of_the_tracks_are_enough_when_full_clips_are_not_asked_for(root, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    keys = {"points": 198, "strides": (1,), "augment": False}
    assert run(begin(root, tmp_path / "full", **keys))["clips"] == 0
    assert run(begin(root, tmp_path / "half", **keys, require_full=False))["clips"] > 0
    assert "ideally we want N=198, but we will pad" in caplog.text
    padded = [clip_files.read_table(path.parent) for path in (tmp_path / "half").glob("0*/track.npz")]
    assert all((table[:, -1] == 0).all() for table in padded)
    run(begin(root, tmp_path / "compat", **keys, require_full=False, compat=True))
    repeated = [clip_files.read_table(path.parent) for path in (tmp_path / "compat").glob("0*/track.npz")]
    assert all((table[0, :, 3] == 1).all() for table in repeated)  # as published: some tracks come twice
    assert all(len(np.unique(table[0, :, :2], axis=0)) < 198 for table in repeated)


def test_files_that_cannot_be_read_stop_no_other_and_are_tried_again(tmp_path, undisturbed):
    source = write_set(tmp_path / "source")
    picture = source / "train" / "seq0" / "rgbs" / "rgb_00002.jpg"
    good = picture.read_bytes()
    picture.write_bytes(b"no picture")
    made = begin(source, tmp_path / "clips")
    counts = run(made)
    assert counts["unreadable"]
    assert all("rgb_00002.jpg" in text for text in counts["unreadable"])
    assert 0 < counts["clips"] < undisturbed[1]["clips"]
    picture.write_bytes(good)
    assert run(made)["unreadable"] == []
    assert files_of(tmp_path / "clips") == undisturbed[0]


def test_other_options_do_not_mix(root, tmp_path):
    begin(root, tmp_path)
    begin(root, tmp_path, folder="elsewhere", shards=3)  # changes no clip
    for change in ({"seed": 5}, {"size": (80, 120)}, {"augment": False}):
        (tmp_path / "index.json").unlink(missing_ok=True)  # as Snakemake does before it runs a job again
        with pytest.raises(InputError, match="made with other options"):
            begin(root, tmp_path, **change)


def test_a_source_that_changed_is_noticed(tmp_path):
    source = write_set(tmp_path / "source", sequences=1)
    begin(source, tmp_path / "clips")
    write_sequence(source / "train" / "another")
    with pytest.raises(InputError, match="has changed since"):
        export.open_export(tmp_path / "clips")
    with pytest.raises(InputError, match="made with other options or from other sequences"):
        begin(source, tmp_path / "clips")


def test_what_gives_no_clip_is_refused(root, tmp_path):
    with pytest.raises(InputError, match=r"pips\.export\.root is not set"):
        export.write_index(tmp_path, ExportOptions(), 0)
    with pytest.raises(InputError, match="gives no clip of 40 frames"):
        begin(root, tmp_path, frames=40)


# -------------------------------------------------------------------------------- defects of the published chain


def drawn(root: Path, compat: bool, index: int, augment: bool = True) -> pipeline.Drawn:
    options = pipeline.SampleOptions(5, 12, (80, 112), (112, 160), augment, True, compat)
    folder = sequence_folders(root, "train")[0]
    return pipeline.draw(folder, folder.annotations(), np.arange(5) + 4, options, (0, index, 0))


def test_compat_changes_positions_and_nothing_that_is_drawn(root):
    compared = 0
    for index in range(12):
        right, published = drawn(root, False, index), drawn(root, True, index)
        if right.frames is None or published.frames is None:
            continue
        np.testing.assert_array_equal(right.frames, published.frames)
        compared += not np.array_equal(right.table, published.table)
    assert compared >= 2


def test_validity_is_reversed_with_time(root, monkeypatch):
    """The source loses the validity of some tracks half-way: backwards, they must gain it."""
    known = []
    monkeypatch.setattr(sampling, "long_enough", lambda tracks: known.append(tracks.known) or tracks)
    monkeypatch.setattr(sampling, "hide_border", lambda tracks, size: tracks)
    real = spatial.reverse
    turned = []
    monkeypatch.setattr(spatial, "reverse", lambda *a, **k: turned.append(True) or real(*a, **k))
    for index in range(30):
        before = len(turned)
        drawn(root, False, index)
        if len(turned) > before and len(known):
            assert known[-1][-1].all()  # the first frame of the source: all are known there
            assert not known[-1][0].all()
            return
    pytest.fail("no sample was reversed")


def test_the_need_for_full_clips_reads_as_it_is_named(root):
    folder = sequence_folders(root, "train")[0]
    for full, need in ((True, 201), (False, 100)):  # 200 tracks are there
        options = pipeline.SampleOptions(5, 201, (80, 112), (112, 160), False, full, False)
        drawn = pipeline.draw(folder, folder.annotations(), np.arange(5), options, (0, 0, 0))
        assert f"need at least N={need}" in drawn.text if full else drawn.reason != "tracks"


def test_frames_of_the_set_are_as_large_as_the_tests_think(root):
    assert sequence_folders(root, "train")[0].rgb(0).shape == (*SIZE, 3)
