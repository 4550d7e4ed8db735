"""Folder artifacts: published whole, resumed after a kill, checked before they are trusted."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from everypoint.artifacts import atomic
from everypoint.artifacts.folder import FolderWriter, check_folder, fingerprint_of, sha256_of
from everypoint.errors import ArtifactError


def add(writer: FolderWriter, name: str, text: str) -> None:
    writer.add(name, lambda path: atomic.write_text(path, text))


def write(final: Path, fingerprint: object = "a") -> Path:
    writer = FolderWriter(final, fingerprint)
    for name in ("one", "two"):
        add(writer, name, name)
    return writer.publish()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_nothing_is_there_before_publication(tmp_path):
    writer = FolderWriter(tmp_path / "out", "a")
    add(writer, "one", "1")
    assert not (tmp_path / "out").exists()
    assert writer.publish() == tmp_path / "out"
    assert names(tmp_path / "out") == ["manifest.json", "one"]
    assert names(tmp_path) == ["out"]


def test_the_manifest_tells_bytes_and_hashes(tmp_path):
    manifest = check_folder(write(tmp_path / "out"), deep=True)
    assert manifest["count"] == 2
    assert manifest["items"]["one"] == {
        "bytes": 3,
        "sha256": "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed",
    }


def test_equal_work_gives_equal_bytes(tmp_path):
    for name in ("first", "second"):
        write(tmp_path / name)
    assert (tmp_path / "first/manifest.json").read_bytes() == (tmp_path / "second/manifest.json").read_bytes()


def test_a_killed_writer_finds_its_finished_items(tmp_path):
    add(FolderWriter(tmp_path / "out", "a"), "one", "1")
    again = FolderWriter(tmp_path / "out", "a")
    assert again.has("one")
    assert not again.has("two")


def test_other_work_starts_afresh(tmp_path):
    add(FolderWriter(tmp_path / "out", "a"), "one", "1")
    other = FolderWriter(tmp_path / "out", "b")
    assert not other.has("one")
    assert names(other.work) == []


@pytest.mark.parametrize("damage", ["changed", "shorter", "gone"])
def test_an_item_that_was_altered_is_not_taken_over(tmp_path, damage):
    writer = FolderWriter(tmp_path / "out", "a")
    for name in ("one", "two"):
        add(writer, name, name)
    path = writer.work / "one"
    path.unlink() if damage == "gone" else path.write_text("onE" if damage == "changed" else "o")
    again = FolderWriter(tmp_path / "out", "a")
    assert (again.has("one"), again.has("two")) == (False, True)


def test_an_item_without_a_note_is_not_taken_over_nor_published(tmp_path):
    writer = FolderWriter(tmp_path / "out", "a")
    add(writer, "one", "1")
    (writer.work / "stray").write_text("half an it")  # killed before it was noted
    (writer.work / "deep").mkdir()
    (writer.work / "deep" / "er").write_text("x")
    again = FolderWriter(tmp_path / "out", "a")
    assert not again.has("stray")
    again.publish()
    assert names(tmp_path / "out") == ["manifest.json", "one"]


def test_a_damaged_journal_starts_afresh(tmp_path):
    writer = FolderWriter(tmp_path / "out", "a")
    add(writer, "one", "1")
    (writer.work / "journal.json").write_text("{")
    assert not FolderWriter(tmp_path / "out", "a").has("one")


@pytest.mark.parametrize("moment", ["rename", "removal of the old"])
def test_killed_while_publishing_nothing_is_lost(tmp_path, monkeypatch, moment):
    write(tmp_path / "out", "old")
    writer = FolderWriter(tmp_path / "out", "a")
    for name in ("one", "two"):
        add(writer, name, name)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    target = ("everypoint.artifacts.folder.os", "replace") if moment == "rename" else (shutil, "rmtree")
    with monkeypatch.context() as patch:
        if moment == "rename":
            patch.setattr("everypoint.artifacts.folder.os.replace", _only_for_folders(killed))
        else:
            patch.setattr(*target, killed)
        with pytest.raises(KeyboardInterrupt):
            writer.publish()
    again = FolderWriter(tmp_path / "out", "a")
    assert again.has("one")
    assert again.has("two")
    again.publish()
    assert check_folder(tmp_path / "out", deep=True)["fingerprint"] == fingerprint_of("a")
    assert names(tmp_path / "out") == ["manifest.json", "one", "two"]
    assert names(tmp_path) == ["out"]


def _only_for_folders(killed):
    import os

    real = os.replace

    def replace(source, target):
        return killed() if Path(source).is_dir() else real(source, target)

    return replace


def test_an_older_folder_is_replaced_whole(tmp_path):
    writer = FolderWriter(tmp_path / "out", "a")
    add(writer, "old", "x")
    writer.publish()
    write(tmp_path / "out", "b")
    assert names(tmp_path / "out") == ["manifest.json", "one", "two"]


@pytest.mark.parametrize("damage", ["gone", "shorter", "no manifest", "foreign manifest", "broken manifest"])
def test_reader_refuses_what_is_damaged(tmp_path, damage):
    folder = write(tmp_path / "out")
    if damage == "gone":
        (folder / "one").unlink()
    elif damage == "shorter":
        (folder / "one").write_text("o")
    elif damage == "no manifest":
        (folder / "manifest.json").unlink()
    else:
        (folder / "manifest.json").write_text("[1]" if damage.startswith("foreign") else "{")
    with pytest.raises(ArtifactError):
        check_folder(folder)


def test_a_changed_byte_is_seen_by_the_deep_check(tmp_path):
    folder = write(tmp_path / "out")
    (folder / "one").write_text("onE")
    check_folder(folder)
    with pytest.raises(ArtifactError, match="delete .*out and run again"):
        check_folder(folder, deep=True)


def test_fingerprints_see_values_and_not_the_order_of_keys():
    assert fingerprint_of({"a": 1, "b": [2, 3]}) == fingerprint_of({"b": (2, 3), "a": 1})
    assert fingerprint_of({"a": 1}) != fingerprint_of({"a": 2})
    assert fingerprint_of({"a": 1}) != fingerprint_of({"a": "1"})


def test_sha256_by_hand(tmp_path):
    (tmp_path / "empty").touch()
    assert sha256_of(tmp_path / "empty") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
