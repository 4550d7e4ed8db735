"""Files are whole or absent under their final name, whatever happens to their writer."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from everypoint.artifacts import atomic
from everypoint.errors import ArtifactError, ResourceError
from tests.shared import ROOT

DAY = 24 * 3600


def run_module(name: str, *arguments: object) -> list | dict:
    """The JSON that a helper module of this folder prints, run in a process of its own."""
    command = [sys.executable, "-m", f"tests.unit.artifacts.{name}", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


# ---------------------------------------------------------------------------------------------- killed writers


def test_killed_at_random_moments_the_file_is_one_whole_generation(tmp_path):
    assert run_module("killing", tmp_path, "atomic", 40) == ["good"] * 40


def test_the_same_kills_do_break_a_naive_writer(tmp_path):
    """The check above can fail: 40 such kills broke 20 to 30 files here, where 10 are asked for."""
    assert run_module("killing", tmp_path, "naive", 40).count("corrupt") >= 10


def test_killed_before_each_call_the_file_is_old_or_new(tmp_path):
    verdicts = run_module("killing", tmp_path, "atomic", "calls")
    assert set(verdicts) == {"good"}
    assert len(verdicts) > 50  # the write was indeed cut at many places


# ------------------------------------------------------------------------------------------------- full disks


def test_full_disk_is_one_sentence_and_leaves_nothing(tmp_path):
    """RLIMIT_FSIZE imitates the full disk: writes fail part-way, each library in a way of its own."""
    for name, outcome in run_module("filling", tmp_path).items():
        assert outcome["kind"] == "ResourceError", name
        assert "MiB free" in outcome["text"], name
        assert "free space" in outcome["text"], name
        assert outcome["old"] == "old", f"{name}: the former file is not intact"
    assert leftovers(tmp_path) == []


def test_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ResourceError, match="permissions"):
        atomic.write_text(tmp_path / "file" / "below" / "x.txt", "x")


def test_name_that_is_too_long_is_one_sentence(tmp_path):
    with pytest.raises(ResourceError, match="cannot write"):
        atomic.write_text(tmp_path / ("n" * 300), "x")


# ------------------------------------------------------------------------------------------------ atomic_path


def test_final_name_appears_only_at_the_end(tmp_path):
    final = tmp_path / "deep" / "er" / "a.mp4"
    with atomic.atomic_path(final) as temporary:
        temporary.write_bytes(b"film")
        assert not final.exists()
        assert temporary.parent == final.parent  # a rename across file systems would be a copy
        assert temporary.suffix == ".mp4"
    assert final.read_bytes() == b"film"
    assert leftovers(final.parent) == []


@pytest.mark.parametrize("error", [RuntimeError("mine"), KeyboardInterrupt(), ArtifactError("mine")])
def test_failure_passes_unchanged_and_keeps_the_old_file(tmp_path, error):
    final = tmp_path / "a.txt"
    atomic.write_text(final, "old")
    with pytest.raises(type(error)) as caught, atomic.atomic_path(final) as temporary:
        temporary.write_text("half")
        raise error
    assert caught.value is error
    assert final.read_text() == "old"
    assert leftovers(tmp_path) == []


def test_error_about_an_input_is_not_blamed_on_the_disk(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"input\.bin"), atomic.atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_bytes((tmp_path / "input.bin").read_bytes())


def test_writer_that_writes_nothing_is_told(tmp_path):
    """cv2.imwrite only returns False when it fails."""
    with pytest.raises(ArtifactError, match="nothing was written"), atomic.atomic_path(tmp_path / "a.png"):
        pass
    assert leftovers(tmp_path) == []


def test_two_writers_in_one_process_do_not_share_a_temporary_file(tmp_path):
    final = tmp_path / "a.txt"
    with atomic.atomic_path(final) as first, atomic.atomic_path(final) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert final.read_text() == "first"  # the one that ended last


# ------------------------------------------------------------------------------------------------------- JSON


def test_json_writes_non_finite_numbers_as_null(tmp_path):
    value = {
        "nan": float("nan"),
        "list": [np.float32("inf"), 1.5, np.int64(3), np.bool_(True)],
        "array": np.array([[1.0, np.nan]]),
        "path": Path("a/b"),
        3: None,
    }
    atomic.write_json(tmp_path / "a.json", value)

    def refuse(name: str) -> float:
        raise AssertionError(f"{name} is not JSON")

    read = json.loads((tmp_path / "a.json").read_text(), parse_constant=refuse)
    assert read == {"nan": None, "list": [None, 1.5, 3, True], "array": [[1.0, None]], "path": "a/b", "3": None}
    assert atomic.read_json(tmp_path / "a.json") == read


def test_json_is_the_same_bytes_whatever_the_order_of_keys(tmp_path):
    atomic.write_json(tmp_path / "a.json", {"b": 1, "a": {"d": 2, "c": 3}})
    atomic.write_json(tmp_path / "b.json", {"a": {"c": 3, "d": 2}, "b": 1})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


@pytest.mark.parametrize("content", [b"", b"{", b"{'a': 1}", b"\xff\xfe\x00", b"[" * 100_000])
def test_damaged_json_is_one_sentence(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"a\.json is not valid JSON.*run the workflow again"):
        atomic.read_json(tmp_path / "a.json")


def test_missing_files_and_folders_in_their_place_are_one_sentence(tmp_path):
    for read in (atomic.read_json, atomic.load_npy, atomic.load_npz):
        with pytest.raises(ArtifactError, match="is missing"):
            read(tmp_path / "absent")
        with pytest.raises(ArtifactError, match="cannot be read"):
            read(tmp_path)


def test_files_that_the_workflow_has_not_made_have_their_own_cure(tmp_path):
    (tmp_path / "text.npz").write_text("t,x,y\n")
    for name, what in (("absent.npz", "is missing"), ("text.npz", "cannot be read: it is no file of numpy arrays")):
        with pytest.raises(ArtifactError, match=rf"{what}.*run the workflow again"):
            atomic.load_npz(tmp_path / name)
        with pytest.raises(ArtifactError) as error:
            atomic.load_npz(tmp_path / name, cure="write it again")
        assert what in str(error.value)
        assert str(error.value).endswith("; write it again.")


# ----------------------------------------------------------------------------------------------------- arrays


def test_arrays_come_back_as_they_were(tmp_path):
    arrays = {"a": np.arange(12, dtype=np.int16).reshape(3, 4), "b": np.array(["ä", "b"]), "c": np.zeros((0, 2), "f2")}
    for compressed in (False, True):
        atomic.save_npz(tmp_path / "a.npz", compressed=compressed, **arrays)
        read = atomic.load_npz(tmp_path / "a.npz")
        assert list(read) == list(arrays)
        for name, array in arrays.items():
            assert read[name].dtype == array.dtype
            np.testing.assert_array_equal(read[name], array)
    for name, array in arrays.items():
        atomic.save_npy(tmp_path / f"{name}.npy", array)
        np.testing.assert_array_equal(atomic.load_npy(tmp_path / f"{name}.npy"), array)
        np.testing.assert_array_equal(atomic.load_npy(tmp_path / f"{name}.npy", mmap=True), array)


def test_memory_map_is_read_only(tmp_path):
    atomic.save_npy(tmp_path / "a.npy", np.zeros(3))
    mapped = atomic.load_npy(tmp_path / "a.npy", mmap=True)
    assert isinstance(mapped, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        mapped[0] = 1


def test_an_array_filled_in_its_file_is_the_same_file_as_a_saved_one(tmp_path):
    array = np.arange(24, dtype=np.float16).reshape(2, 3, 4)
    atomic.save_npy(tmp_path / "saved.npy", array)
    with atomic.mapped_npy(tmp_path / "mapped.npy") as allocate:
        place = allocate(array.shape, np.float16)
        for row, values in enumerate(array):
            place[row] = values
        assert not (tmp_path / "mapped.npy").exists()
    assert (tmp_path / "mapped.npy").read_bytes() == (tmp_path / "saved.npy").read_bytes()
    assert leftovers(tmp_path) == []


def test_an_array_that_is_not_filled_to_the_end_is_not_there(tmp_path):
    def fill() -> None:
        with atomic.mapped_npy(tmp_path / "a.npy") as allocate:
            allocate((3, 4), np.uint8)[0] = 1
            raise KeyError("frame 1")

    with pytest.raises(KeyError, match="frame 1"):
        fill()
    assert list(tmp_path.iterdir()) == []


def test_room_for_a_mapped_array_is_claimed_before_it_is_filled(tmp_path, monkeypatch):
    """Else the first write to a page without room kills the process: nothing there can be caught."""
    claimed = []

    def full(_descriptor, start, size):
        claimed.append((start, size))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with (
        pytest.raises(ResourceError, match=r"cannot write .*a.npy: .*MiB free.*free space"),
        atomic.mapped_npy(tmp_path / "a.npy") as allocate,
    ):
        allocate((1000, 10), np.float32)
    assert claimed == [(0, 40_128)]  # with the header
    assert list(tmp_path.iterdir()) == []


def test_equal_arrays_give_equal_bytes_at_any_time(tmp_path, monkeypatch):
    """The zip format stores dates; numpy fixes them, and results are compared by their hash."""
    arrays = {"a": np.arange(5), "b": np.ones((2, 2))}
    atomic.save_npz(tmp_path / "a.npz", compressed=True, **arrays)
    monkeypatch.setattr("time.time", lambda: 2_000_000_000.0)
    monkeypatch.setattr("time.localtime", lambda *_: (2033, 5, 18, 3, 33, 20, 2, 138, 0))
    atomic.save_npz(tmp_path / "b.npz", compressed=True, **arrays)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_objects_are_neither_written_nor_read(tmp_path):
    objects = np.array([{"a": 1}], dtype=object)
    with pytest.raises(TypeError, match="'bad' holds Python objects"):
        atomic.save_npz(tmp_path / "a.npz", good=np.zeros(1), bad=objects)
    with pytest.raises(ValueError, match="Object arrays"):
        atomic.save_npy(tmp_path / "a.npy", objects)
    assert list(tmp_path.iterdir()) == []

    with open(tmp_path / "evil.npy", "wb") as file:
        np.lib.format.write_array(file, np.array([Bomb(tmp_path / "went-off")], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "evil.npz", a=np.array([Bomb(tmp_path / "went-off")], dtype=object))
    with pytest.raises(ArtifactError, match="it holds Python objects, which are never read"):
        atomic.load_npy(tmp_path / "evil.npy")
    with pytest.raises(ArtifactError, match="it holds Python objects, which are never read"):
        atomic.load_npz(tmp_path / "evil.npz")
    assert not (tmp_path / "went-off").exists()


class Bomb:
    """Makes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_wrong_kind_of_file_is_one_sentence(tmp_path):
    atomic.save_npz(tmp_path / "a", x=np.zeros(2))
    atomic.save_npy(tmp_path / "b", np.zeros(2))
    with pytest.raises(ArtifactError, match="one array is expected"):
        atomic.load_npy(tmp_path / "a")
    with pytest.raises(ArtifactError, match="an npz is expected"):
        atomic.load_npz(tmp_path / "b")


@pytest.mark.parametrize("compressed", [False, True])
def test_damaged_npz_is_refused_or_read_right(tmp_path, compressed):
    """Any one byte changed, or the file cut anywhere: an ArtifactError, or the very same arrays."""
    arrays = {"a": np.arange(7, dtype=np.int32), "b": np.linspace(0, 1, 5)}
    path = tmp_path / "a.npz"
    atomic.save_npz(path, compressed=compressed, **arrays)
    good = path.read_bytes()
    damaged = [good[:cut] for cut in range(0, len(good), 2)]
    damaged += [good[:k] + bytes([good[k] ^ (1 << k % 8)]) + good[k + 1 :] for k in range(len(good))]
    refused = 0
    for content in damaged:
        path.write_bytes(content)
        try:
            read = atomic.load_npz(path)
        except (ArtifactError, ResourceError):
            refused += 1
            continue
        for name in set(read) & set(arrays):  # a flip in a member's name or a date harms no value
            np.testing.assert_array_equal(read[name], arrays[name])
    assert refused > 0.7 * len(damaged)


def test_damaged_npy_is_refused(tmp_path):
    """An npy has no checksum of its values (manifests have), but a cut file or a broken header must not pass."""
    path = tmp_path / "a.npy"
    atomic.save_npy(path, np.arange(7, dtype=np.int32))
    good = path.read_bytes()
    header = len(good) - 7 * 4
    for mmap in (False, True):
        for cut in range(len(good)):
            path.write_bytes(good[:cut])
            with pytest.raises(ArtifactError):
                atomic.load_npy(path, mmap=mmap)
        for k in range(header):
            path.write_bytes(good[:k] + bytes([good[k] ^ 0x40]) + good[k + 1 :])
            try:
                np.asarray(atomic.load_npy(path, mmap=mmap))
            except (ArtifactError, ResourceError):
                continue


# ---------------------------------------------------------------------------------------------- stale leftovers


def test_sweep_removes_only_old_temporary_files_of_ours(tmp_path):
    with atomic.atomic_path(tmp_path / "a.npz") as temporary:
        old, new = temporary.name, temporary.name.replace("a.npz", "b.npz", 1)
        temporary.write_text("x")
    kept = [new, ".settings.tmpl", ".hidden.tmp", "a.1.tmp", "plain.txt"]
    for name in [old, *kept]:
        (tmp_path / name).write_text("x")
    for name in [old, *kept[1:]]:
        os.utime(tmp_path / name, (0, 0))
    assert atomic.sweep_stale(tmp_path) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*kept, "a.npz"])


def test_sweep_of_a_folder_that_is_not_there_is_no_error(tmp_path):
    assert atomic.sweep_stale(tmp_path / "absent") == 0
