"""Archives of data sets: what is unpacked, and what is refused before anything is written."""

from __future__ import annotations

import json
import stat
import zipfile
from pathlib import Path, PurePosixPath

import pytest

from everypoint.assets import unpack as unpack_module
from everypoint.assets.unpack import csv_layout, davis_layout, pickles_layout, unpack, unpacked_files
from everypoint.errors import AssetError, ResourceError
from tests.unit.assets.conftest import payload, sha256


def a_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def test_wanted_members_are_published_with_a_manifest(tmp_path: Path) -> None:
    members = {"set/a.pkl": payload(1000), "set/b.pkl": b"b", "set/README.md": b"text", "__MACOSX/set/._a.pkl": b"x"}
    folder = tmp_path / "out"
    assert unpack(a_zip(tmp_path / "z.zip", members), folder, pickles_layout, "t") == [
        folder / "a.pkl",
        folder / "b.pkl",
    ]
    assert (folder / "a.pkl").read_bytes() == payload(1000)
    assert sorted(path.name for path in folder.iterdir()) == ["a.pkl", "b.pkl", "manifest.json"]
    assert json.loads((folder / "manifest.json").read_text())["items"]["a.pkl"]["sha256"] == sha256(payload(1000))
    assert unpacked_files(folder) == [folder / "a.pkl", folder / "b.pkl"]
    (folder / "b.pkl").write_bytes(b"")
    assert unpacked_files(folder) is None
    (folder / "b.pkl").unlink()
    assert unpacked_files(folder) is None


@pytest.mark.parametrize(
    "name, place",
    [
        ("DAVIS/JPEGImages/480p/bear/00000.jpg", "videos/bear/color/00000.jpg"),
        ("DAVIS/Annotations/480p/bear/00000.png", "videos/bear/mask/00000.png"),
        ("DAVIS/JPEGImages/Full-Resolution/bear/00000.jpg", None),
        ("DAVIS/ImageSets/2017/val.txt", None),
        ("DAVIS/Annotations/480p/bear/00000.jpg", None),
        ("00000.jpg", None),
    ],
)
def test_the_layout_of_davis(name: str, place: str | None) -> None:
    assert davis_layout(PurePosixPath(name)) == (PurePosixPath(place) if place else None)


def test_the_layout_of_tables() -> None:
    assert csv_layout(PurePosixPath("a/b.csv")) == PurePosixPath("b.csv")
    assert csv_layout(PurePosixPath("a/b.txt")) is None


@pytest.mark.parametrize(
    "name", ["../evil.pkl", "a/../../evil.pkl", "/evil.pkl", "..\\evil.pkl", "C:/evil.pkl", "a/..", "../evil.txt"]
)
def test_members_that_would_leave_the_folder_refuse_the_whole_archive(tmp_path: Path, name: str) -> None:
    archive = a_zip(tmp_path / "z.zip", {"good.pkl": b"x", name: b"evil"})
    with pytest.raises(AssetError, match="would leave the folder"):
        unpack(archive, tmp_path / "deep" / "out", pickles_layout, "t")
    assert [path for path in tmp_path.rglob("*") if path != archive] == []


def test_links_and_encrypted_members_are_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link.pkl")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(AssetError, match="link or a device"):
        unpack(tmp_path / "link.zip", tmp_path / "out", pickles_layout, "t")
    data = bytearray(a_zip(tmp_path / "z.zip", {"a.pkl": b"x"}).read_bytes())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1  # the flag of encryption, in both headers
    (tmp_path / "z.zip").write_bytes(data)
    with pytest.raises(AssetError, match="encrypted"):
        unpack(tmp_path / "z.zip", tmp_path / "out", pickles_layout, "t")


@pytest.mark.parametrize("name", ["a b.pkl", "$(touch x).pkl", "-i.pkl", "ä.pkl", "x" * 80 + ".pkl"])
def test_names_that_could_be_misread_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(AssetError, match="cannot be used"):
        unpack(a_zip(tmp_path / "z.zip", {name: b"x"}), tmp_path / "out", pickles_layout, "t")


def test_two_members_for_one_place_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match=r"two members would become x\.pkl"):
        unpack(a_zip(tmp_path / "z.zip", {"a/x.pkl": b"1", "b/x.pkl": b"2"}), tmp_path / "out", pickles_layout, "t")


def test_a_bomb_is_refused_by_its_table_of_contents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = a_zip(tmp_path / "z.zip", {"a.pkl": bytes(1_000_000), "b.pkl": bytes(1_000_000)})
    assert archive.stat().st_size < 10_000
    monkeypatch.setattr(unpack_module, "MAX_BYTES", 1_999_999)
    with pytest.raises(AssetError, match="would unpack to 2000000 bytes, the limit is 1999999"):
        unpack(archive, tmp_path / "out", pickles_layout, "t")
    monkeypatch.setattr(unpack_module, "MAX_MEMBERS", 1)
    with pytest.raises(AssetError, match="2 members"):
        unpack(archive, tmp_path / "out", pickles_layout, "t")


def test_a_member_larger_than_it_says_is_refused(tmp_path: Path) -> None:
    """A table of contents that lies about the size: the checksum of what it admits does not fit."""
    data = bytearray(a_zip(tmp_path / "z.zip", {"a.pkl": bytes(1_000_000)}).read_bytes())
    for header, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        start = data.index(header) + offset
        data[start : start + 4] = (10).to_bytes(4, "little")
    (tmp_path / "z.zip").write_bytes(data)
    with pytest.raises(AssetError, match="not a sound zip"):
        unpack(tmp_path / "z.zip", tmp_path / "out", pickles_layout, "t")
    assert not (tmp_path / "out").exists()


def test_no_room_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack_module, "free_bytes", lambda folder: 10)
    with pytest.raises(ResourceError, match="no room to unpack"):
        unpack(a_zip(tmp_path / "z.zip", {"a.pkl": bytes(100)}), tmp_path / "out", pickles_layout, "t")


def test_a_damaged_archive_leaves_the_old_folder(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    unpack(a_zip(tmp_path / "old.zip", {"a.pkl": b"old"}), folder, pickles_layout, "t")
    data = bytearray(a_zip(tmp_path / "new.zip", {"a.pkl": payload(5000)}).read_bytes())
    data[100] ^= 1
    (tmp_path / "new.zip").write_bytes(data)
    with pytest.raises(AssetError, match="not a sound zip"):
        unpack(tmp_path / "new.zip", folder, pickles_layout, "t")
    assert (folder / "a.pkl").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".unpacking"] == []


def test_what_a_killed_process_left_does_not_matter(tmp_path: Path) -> None:
    left = tmp_path / ".out.t.unpacking"
    left.mkdir()
    (left / "stray.pkl").write_bytes(b"half")
    folder = tmp_path / "out"
    unpack(a_zip(tmp_path / "z.zip", {"a.pkl": b"new"}), folder, pickles_layout, "t")
    assert sorted(path.name for path in folder.iterdir()) == ["a.pkl", "manifest.json"]


def test_an_archive_of_other_things_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match="holds nothing that can be used"):
        unpack(a_zip(tmp_path / "z.zip", {"README": b"x"}), tmp_path / "out", pickles_layout, "t")
