"""``python -m everypoint assets``: what it prints and how it ends."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from everypoint.__main__ import main
from everypoint.assets.registry import registry
from tests.unit.assets.conftest import Server, an_asset, flipped, payload, sha256

DATA = payload(3_000_000)


@pytest.fixture
def thing(server: Server, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An asset ``thing`` on the local server; the path it will have."""
    server.files["/thing.bin"] = DATA
    plain = an_asset(server.url("/thing.bin"), data=DATA)
    entries = {
        "thing": plain,
        "limited": plain.model_copy(update={"licence": "CC-BY-NC-4.0", "needs_acceptance": True}),
    }
    dumped = {name: item.model_dump(mode="json", exclude={"name"}) for name, item in entries.items()}
    (tmp_path / "registry.yaml").write_text(yaml.safe_dump(dumped))
    monkeypatch.setenv("EVERYPOINT_REGISTRY", str(tmp_path / "registry.yaml"))
    return cache / "thing" / "thing.bin"


def row(output: str, name: str) -> list[str]:
    return next(line.split() for line in output.splitlines() if line.startswith(f"{name} "))


def test_list_shows_every_asset_and_what_is_cached(thing: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["assets", "list"]) == 0
    output = capsys.readouterr().out
    assert row(output, "thing") == ["thing", "clip", "3.0", "MIT", "no"]
    assert all(f"\n{name} " in output for name in registry())
    assert main(["assets", "fetch", "thing"]) == 0
    capsys.readouterr()
    main(["assets", "list"])
    assert row(capsys.readouterr().out, "thing")[-1] == "yes"
    thing.write_bytes(DATA[:-1])
    main(["assets", "list"])
    assert row(capsys.readouterr().out, "thing")[-1] == "damaged"


def test_fetch_says_where_and_under_which_licence(thing: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["assets", "fetch", "thing"]) == 0
    assert f"thing: {thing} (3.0 MB, MIT)" in capsys.readouterr().out
    assert thing.read_bytes() == DATA


def test_fetch_goes_on_after_a_failure_and_fails_in_the_end(thing: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["assets", "fetch", "thin", "limited", "thing"]) == 1
    errors = capsys.readouterr().err
    assert "the nearest name is thing" in errors
    assert "--accept-licence" in errors
    assert thing.exists()
    assert main(["assets", "fetch", "--accept-licence", "limited"]) == 0


def test_fetch_into_another_folder(thing: Path, tmp_path: Path) -> None:
    assert main(["assets", "fetch", "--folder", str(tmp_path / "other"), "thing"]) == 0
    assert (tmp_path / "other" / "thing" / "thing.bin").read_bytes() == DATA
    assert not thing.exists()


def test_verify_finds_damage_that_keeps_size_and_time(thing: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["assets", "verify"]) == 0
    assert "0 right, 0 missing" in capsys.readouterr().out
    main(["assets", "fetch", "thing"])
    assert main(["assets", "verify"]) == 0
    assert f"thing: right, sha256 {sha256(DATA)}" in capsys.readouterr().out
    before = thing.stat().st_mtime_ns
    thing.write_bytes(flipped(DATA))
    os.utime(thing, ns=(before, before))
    assert main(["assets", "verify"]) == 1
    assert f"expected sha256 {sha256(DATA)}, got {sha256(flipped(DATA))}" in capsys.readouterr().err


def test_verify_of_a_name_needs_the_file(thing: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["assets", "verify", "thing"]) == 1
    assert "thing: not in the cache" in capsys.readouterr().err
    assert main(["assets", "verify", "thin"]) == 1
    assert "the nearest name is thing" in capsys.readouterr().err
