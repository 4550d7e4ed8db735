"""The registry: entries that are complete and safe, names that are found or suggested."""

from __future__ import annotations

import collections
from pathlib import Path

import pytest
import yaml

from everypoint.assets.registry import BUILT_IN, Asset, PackageSource, UrlSource, asset, load_registry, registry
from everypoint.errors import AssetError, ConfigError
from tests.unit.assets.conftest import an_asset

# From the publishers' files, hashed independently.
KNOWN = {
    "raft-things": (21108000, "fcfa4125d6418f4de95d84aec20a3c5f4e205101715a79f193243c186ac9a7e1"),
    "raft-sintel": (21108000, "90630d2e7d488a0d3ccb5e8194524850c4c05c732ea4ff99799822c7fa5c5cbf"),
    "raft-kitti": (21108000, "b9d170362415e1a27bd8402ee966a3ddf0d60df9b2df2c0b4949f5ced490a9e6"),
    "raft-small": (3984814, "c7d41b9cc88442bb8aa911dbb33086dac55a226394b142937ff22d5578717332"),
    "xfeat": (6247949, "0f5187fd7bedd26c7fe6acc9685444493a165a35ecc087b33c2db3627f3ea10b"),
    "bikes": (509868, "91028f9d6c72cc8137d8bd05678bdfcf5ab7c8fd9d7b77de70ce7a3ade257bb5"),
}


def test_known_files_have_their_size_and_hash() -> None:
    assert {name: (registry()[name].bytes, registry()[name].sha256) for name in KNOWN} == KNOWN


def test_data_sets_and_weights_of_the_presets_are_there() -> None:
    names = {item.name for item in registry().values() if item.kind == "dataset"}
    assert names == {"tapvid-davis", "tapvid-rgb-stacking", "robotap", "tapvid-kinetics", "davis-2017-480p"}
    assert {"dino-vits16", "dinov2-vits14", "cotracker3-offline"} <= set(registry())


def test_every_entry_states_its_licence_and_non_commercial_ones_ask() -> None:
    for item in registry().values():
        assert item.licence_url, item.name
        assert item.needs_acceptance == ("-NC-" in item.licence), item.name


def test_hash_prefixes_are_those_of_the_file_names() -> None:
    """torch.hub's convention: name-<first 8 hex digits of sha256>.pth."""
    files = [item for item in registry().values() if item.name.startswith("torchvision-raft-")]
    assert len(files) == 8
    for item in files:
        assert item.file.endswith(f"-{item.sha256_prefix}.pth"), item.name


def test_no_name_appears_twice() -> None:
    """YAML readers keep the last of two equal keys without a word."""
    names = [line.split(":")[0] for line in BUILT_IN.read_text().splitlines() if line and line[0] not in " #"]
    assert [name for name, count in collections.Counter(names).items() if count > 1] == []
    assert names == list(registry())


def test_wheels_are_named_by_package_not_by_host() -> None:
    """The package client knows its registry; the project does not name one."""
    for item in registry().values():
        for source in item.sources:
            if isinstance(source, UrlSource):
                assert not source.url.endswith(".whl")
            else:
                assert source.wheel_sha256


def test_a_typo_names_the_nearest() -> None:
    with pytest.raises(AssetError, match="the nearest name is raft-things"):
        asset("raft-thing")
    with pytest.raises(AssetError, match="assets list"):
        asset("zzzzzzzz")


def test_the_file_name_is_taken_from_the_first_source() -> None:
    assert asset("tapvid-davis").file == "tapvid_davis.zip"
    assert an_asset({"package": "p", "version": "1", "member": "a/b.pth"}, file="").file == "b.pth"


@pytest.mark.parametrize(
    "change, complaint",
    [
        ({"sha": "0"}, "Extra inputs"),
        ({"sha256": "abc"}, "pattern"),
        ({"sha256": None, "sources": [{"url": "http://example.org/thing.bin"}]}, "https is needed"),
        ({"sources": [{"url": "file:///etc/passwd"}]}, "https is needed"),
        ({"sources": [{"url": "ftp://example.org/x"}]}, "https is needed"),
        ({"sources": []}, "at least 1 item"),
        ({"sources": [{"package": "--proxy=x", "version": "1", "member": "m"}]}, "pattern"),
        ({"file": "../thing.bin"}, "pattern"),
        ({"file": ".json"}, "pattern"),
        ({"kind": "dataset"}, "unpack"),
        ({"unpack": "csv"}, "unpack"),
        ({"licence": ""}, "at least 1 character"),
        ({"licence_url": "javascript:alert(1)"}, "https://"),
        ({"licence_url": None}, "licence_url or note"),
        ({"bytes": 0}, "greater than 0"),
    ],
)
def test_a_faulty_entry_is_named_with_its_key(tmp_path: Path, change: dict, complaint: str) -> None:
    entry = {**an_asset("https://example.org/thing.bin", data=b"x").model_dump(mode="json", exclude={"name"}), **change}
    file = tmp_path / "registry.yaml"
    file.write_text(yaml.safe_dump({"mine": entry}))
    with pytest.raises(ConfigError, match=f"asset mine in .*{complaint}"):
        load_registry(file)


@pytest.mark.parametrize("text", ["a: [", "- a", "a: 1", None])
def test_an_unreadable_registry_is_one_sentence(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "registry.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match="the asset registry") as caught:
        load_registry(file)
    assert "\n" not in str(caught.value)


def test_a_registry_of_ones_own_adds_and_replaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = an_asset("https://example.org/mirror.pth", data=b"x").model_dump(mode="json", exclude={"name"})
    file = tmp_path / "registry.yaml"
    file.write_text(yaml.safe_dump({"mine": entry, "raft-things": entry}))
    monkeypatch.setenv("EVERYPOINT_REGISTRY", str(file))
    assert asset("mine").sources == (UrlSource(url="https://example.org/mirror.pth"),)
    assert asset("raft-things").file == "thing.bin"
    assert asset("bikes").bytes == 509868
    monkeypatch.delenv("EVERYPOINT_REGISTRY")
    assert isinstance(asset("raft-things"), Asset)
    assert isinstance(asset("raft-things").sources[0], PackageSource)
