"""Data sets by name, from a local server that holds small archives of the official form."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from everypoint.artifacts.pickles import load_arrays_pickle
from everypoint.assets.datasets import dataset_path, kinetics_csv
from everypoint.assets.registry import load_registry
from everypoint.errors import AssetError, InputError
from everypoint.video.discover import discover
from tests.unit.assets.conftest import Server, flipped


def an_entry(seed: int, *, encoded: bool = False) -> dict[str, object]:
    """One video of the TAP-Vid form: 3 frames of 16x12, 2 points."""
    random = np.random.default_rng(seed)
    video = random.integers(0, 256, (3, 12, 16, 3), np.uint8)
    points = random.random((2, 3, 2), np.float32)
    frames = np.array([cv2.imencode(".jpg", frame)[1].tobytes() for frame in video]) if encoded else video
    return {"video": frames, "points": points, "occluded": points[..., 0] > 0.5}


def an_image(extension: str) -> bytes:
    return cv2.imencode(extension, np.full((12, 16, 3), 200, np.uint8))[1].tobytes()


def a_zip(members: dict[str, bytes]) -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return memory.getvalue()


ARCHIVES = {
    "tapvid-davis": {"tapvid_davis/tapvid_davis.pkl": pickle.dumps({"goat": an_entry(0), "dog": an_entry(1)})},
    "tapvid-rgb-stacking": {"tapvid_rgb_stacking/tapvid_rgb_stacking.pkl": pickle.dumps([an_entry(2), an_entry(3)])},
    "robotap": {
        "robotap/robotap_split0.pkl": pickle.dumps({"arm-a": an_entry(4)}),
        "robotap/robotap_split1.pkl": pickle.dumps({"arm-b": an_entry(5, encoded=True)}),
    },
    "davis-2017-480p": {
        f"DAVIS/{kind}/480p/{sequence}/{number:05}{suffix}": an_image(suffix)
        for kind, suffix in (("JPEGImages", ".jpg"), ("Annotations", ".png"))
        for sequence in ("bear", "goat")
        for number in range(3)
    },
    "tapvid-kinetics": {"tapvid_kinetics/tapvid_kinetics.csv": b"abc,1,11" + b",0.5,0.5,0" * 250 + b"\n"},
}


@pytest.fixture
def official(server: Server, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The registry's own entries, with the local server in place of the official hosts."""
    from everypoint.assets.registry import BUILT_IN

    entries = {}
    for name, members in ARCHIVES.items():
        entry = load_registry(BUILT_IN)[name].model_dump(mode="json", exclude={"name"})
        server.files[f"/{name}.zip"] = a_zip({**members, f"{name}/README.md": b"read me"})
        entries[name] = {**entry, "sources": [{"url": server.url(f"/{name}.zip")}]}
    (tmp_path / "registry.yaml").write_text(yaml.safe_dump(entries))
    monkeypatch.setenv("EVERYPOINT_REGISTRY", str(tmp_path / "registry.yaml"))
    return server


def test_a_dict_of_videos_reads_back(official: Server, cache: Path) -> None:
    path = dataset_path("tapvid-davis")
    assert path == cache / "tapvid-davis" / "unpacked" / "tapvid_davis.pkl"
    loaded = load_arrays_pickle(path)
    assert list(loaded) == ["goat", "dog"]
    for key, value in an_entry(1).items():
        np.testing.assert_array_equal(loaded["dog"][key], value)
    assert [entry.name for entry in discover(None, path)] == ["goat", "dog"]


def test_a_list_of_videos_reads_back(official: Server, cache: Path) -> None:
    path = dataset_path("tapvid-rgb-stacking")
    loaded = load_arrays_pickle(path)
    np.testing.assert_array_equal(loaded[1]["video"], an_entry(3)["video"])
    assert [entry.key for entry in discover(None, path)] == ["0", "1"]


def test_several_pickles_are_a_folder_of_shards(official: Server, cache: Path) -> None:
    path = dataset_path("robotap")
    assert path.is_dir()
    loaded = load_arrays_pickle(path / "robotap_split1.pkl")
    frames = [cv2.imdecode(np.frombuffer(frame, np.uint8), cv2.IMREAD_COLOR) for frame in loaded["arm-b"]["video"]]
    assert np.stack(frames).shape == (3, 12, 16, 3)
    assert [entry.name for entry in discover(None, path)] == ["arm-a", "arm-b"]


def test_davis_becomes_folders_of_images_with_masks(official: Server, cache: Path) -> None:
    path = dataset_path("davis-2017-480p")
    assert sorted(item.name for item in path.iterdir()) == ["bear", "goat"]
    assert sorted(item.name for item in (path / "bear" / "color").iterdir()) == ["00000.jpg", "00001.jpg", "00002.jpg"]
    assert (path / "goat" / "mask" / "00002.png").read_bytes() == an_image(".png")
    entries = discover(None, path)
    assert [(entry.name, entry.kind) for entry in entries] == [("bear", "images"), ("goat", "images")]
    assert entries[0].mask == path / "bear" / "mask"


def test_kinetics_has_a_table_and_says_how_to_use_it(official: Server, cache: Path) -> None:
    assert kinetics_csv().read_bytes().startswith(b"abc,1,11,0.5")
    with pytest.raises(InputError, match="assets kinetics CLIPS OUTPUT"):
        dataset_path("tapvid-kinetics")


def test_the_second_time_nothing_is_fetched_and_the_zip_is_not_needed(
    official: Server, cache: Path, request: pytest.FixtureRequest
) -> None:
    path = dataset_path("tapvid-davis")
    (cache / "tapvid-davis" / "tapvid-davis.zip").unlink(missing_ok=True)
    (cache / "tapvid-davis" / "tapvid_davis.zip").unlink(missing_ok=True)
    request.getfixturevalue("no_network")
    assert dataset_path("tapvid-davis", offline=True) == path


def test_a_damaged_unpacked_file_is_unpacked_again(official: Server, cache: Path) -> None:
    path = dataset_path("tapvid-davis")
    good = path.read_bytes()
    path.write_bytes(good[:100])
    assert dataset_path("tapvid-davis").read_bytes() == good
    assert len(official.seen) == 1


@pytest.mark.parametrize("damage", ["flip", "truncate", "page"])
def test_a_damaged_archive_of_unknown_hash_is_refused(official: Server, cache: Path, damage: str) -> None:
    good = official.files["/tapvid-davis.zip"]
    bad = {"flip": flipped(good), "truncate": good[: len(good) // 2], "page": b"<html>quota</html>"}[damage]
    official.files["/tapvid-davis.zip"] = bad
    with pytest.raises(AssetError):
        dataset_path("tapvid-davis")
    assert not list(cache.rglob("*.zip"))
    assert not list(cache.rglob("*.pkl"))
    official.files["/tapvid-davis.zip"] = good
    assert dataset_path("tapvid-davis").exists()


def test_an_archive_that_leads_out_is_refused(official: Server, cache: Path, tmp_path: Path) -> None:
    official.files["/tapvid-davis.zip"] = a_zip({"a.pkl": b"x", "../../../../evil.pkl": b"evil"})
    with pytest.raises(AssetError, match="would leave the folder"):
        dataset_path("tapvid-davis")
    assert not list(tmp_path.rglob("evil.pkl"))


def test_offline_and_missing_says_where_to_put_the_file(cache: Path, no_network: None) -> None:
    with pytest.raises(AssetError) as caught:
        dataset_path("tapvid-davis", offline=True)
    assert str(cache / "tapvid-davis" / "tapvid_davis.zip") in str(caught.value)
    assert "https://storage.googleapis.com/dm-tapnet/tapvid_davis.zip" in str(caught.value)


def test_a_path_is_itself(tmp_path: Path, cache: Path, no_network: None) -> None:
    mine = tmp_path / "mine.pkl"
    mine.write_bytes(b"x")
    assert dataset_path(str(mine)) == mine
    assert dataset_path(mine) == mine
    assert dataset_path(str(tmp_path)) == tmp_path


def test_what_is_neither_is_one_sentence(cache: Path) -> None:
    with pytest.raises(InputError, match="the nearest name is tapvid-davis"):
        dataset_path("tapvid_davis")
    with pytest.raises(InputError, match="known names: tapvid-davis, tapvid-rgb-stacking, robotap"):
        dataset_path("/nowhere/at/all.pkl")
    with pytest.raises(InputError, match="kind weights"):
        dataset_path("raft-things")
