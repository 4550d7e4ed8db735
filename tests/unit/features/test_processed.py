"""Features of a processed folder: OmniMotion's DINO maps or OmniTrackFast's DINOv2, as unit vectors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from everypoint.artifacts.video import VideoMeta
from everypoint.config.options import FeatureOptions
from everypoint.errors import InputError
from everypoint.features.base import StoredFeatures, feature_backend
from everypoint.features.run import compute_features, load_features

SIZE = (20, 30)
FRAMES = np.random.default_rng(1).integers(0, 99, (4, *SIZE, 3), np.uint8)
MAPS = np.random.default_rng(2).normal(0, 3, (4, 5, 7, 384)).astype(np.float32)
PUBLISHED = {"dino": "features/dino/{:05d}.jpg.npy", "dinov2": "dinov2/featmap/{:05d}.npz"}
OPTIONS = FeatureOptions(backend="processed")


def write(place: Path, kind: str = "dino", maps=MAPS) -> Path:
    (place / "color").mkdir(parents=True, exist_ok=True)
    for frame, (image, field) in enumerate(zip(FRAMES, maps, strict=True)):
        Image.fromarray(image).save(place / f"color/{frame:05d}.jpg")
        path = place / PUBLISHED[kind].format(frame)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, field) if kind == "dino" else np.savez(path, featmap=field)
    return place


def compute(out: Path, place: Path | None, start: int = 0, stride: int = 1) -> np.ndarray | None:
    frames = FRAMES[start::stride]
    meta = VideoMeta("dog", "dog", "abc", 25.0, len(frames), *SIZE, *SIZE, start=start, stride=stride)
    compute_features(frames, OPTIONS, out, place=place, meta=meta)
    return load_features(out)


def unit(maps: np.ndarray) -> np.ndarray:
    return maps / np.linalg.norm(maps, axis=-1, keepdims=True)


@pytest.mark.parametrize("kind", PUBLISHED)
def test_maps_become_unit_vectors_of_half_precision(tmp_path, kind):
    found = compute(tmp_path / "features.npy", write(tmp_path / "dog", kind))
    assert found.dtype == np.float16
    assert found.shape == MAPS.shape
    assert np.abs(found - unit(MAPS)).max() < 2**-12  # half a step of float16 below 1/2
    made_by = json.loads((tmp_path / "features.json").read_text())["made_by"]
    assert (made_by["backend"], made_by["part"]) == ("processed", PUBLISHED[kind].rsplit("/", 1)[0])


@pytest.mark.parametrize(("start", "stride"), [(1, 1), (1, 2)])
def test_frames_are_those_of_the_source(tmp_path, start, stride):
    found = compute(tmp_path / "features.npy", write(tmp_path / "dog"), start, stride)
    assert np.abs(found - unit(MAPS[start::stride])).max() < 2**-12


def test_dino_comes_before_dinov2(tmp_path):
    place = write(write(tmp_path / "dog", "dinov2", MAPS[..., :9]), "dino")
    assert compute(tmp_path / "features.npy", place).shape[-1] == 384


def test_a_zero_vector_stays_zero(tmp_path):
    maps = MAPS.copy()
    maps[1, 2, 3] = 0
    found = compute(tmp_path / "features.npy", write(tmp_path / "dog", maps=maps))
    assert (found[1, 2, 3] == 0).all()
    assert np.isfinite(found).all()


def test_it_stores_features(tmp_path):
    assert isinstance(feature_backend(OPTIONS), StoredFeatures)
    with pytest.raises(ValueError, match="locate"):
        feature_backend(OPTIONS).features(FRAMES)
    with pytest.raises(ValueError, match="needs to know the video"):
        compute_features(FRAMES, OPTIONS, tmp_path / "features.npy", place=tmp_path)


def test_the_files_enter_the_description(tmp_path):
    first = compute(tmp_path / "a.npy", write(tmp_path / "a"))
    second = compute(tmp_path / "b.npy", write(tmp_path / "b", maps=MAPS[..., :-1]))
    assert first.shape != second.shape
    made = [json.loads((tmp_path / f"{name}.json").read_text())["made_by"]["files"] for name in "ab"]
    assert made[0] != made[1]


# ----------------------------------------------------------------------------------------------------- refusals


def test_what_is_missing_is_one_sentence(tmp_path):
    place = write(tmp_path / "dog")
    (place / "features/dino/00002.jpg.npy").unlink()
    with pytest.raises(
        InputError, match="00002.jpg.npy is missing; compute it there or choose another features.backend"
    ):
        compute(tmp_path / "features.npy", place)
    for path in (place / "features/dino").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="has nothing in features/dino; .*features.backend, or set features.folder"):
        compute(tmp_path / "features.npy", place)
    with pytest.raises(InputError, match="no processed folder of dog is known; set features.folder"):
        compute(tmp_path / "features.npy", None)
    assert not (tmp_path / "features.npy").exists()


@pytest.mark.parametrize(
    ("field", "why"),
    [
        (MAPS[2, :, :-1], r"00002.jpg.npy does not fit .*00000.jpg.npy: its shape is \(5, 6, 384\)"),
        (MAPS[2, 0], r"00002.jpg.npy cannot be used: its shape is \(7, 384\), not h x w x C"),
        (np.full_like(MAPS[2], np.nan), "00002.jpg.npy cannot be used: it holds values that are not finite"),
        (np.array([{}]), "00002.jpg.npy cannot be read"),
    ],
)
def test_a_map_that_does_not_fit_is_one_sentence(tmp_path, field, why):
    place = write(tmp_path / "dog")
    np.save(place / "features/dino/00002.jpg.npy", field)
    with pytest.raises(InputError, match=why):
        compute(tmp_path / "features.npy", place)
    assert not (tmp_path / "features.npy").exists()


def test_another_array_is_one_sentence(tmp_path):
    place = write(tmp_path / "dog", "dinov2")
    np.savez(place / "dinov2/featmap/00001.npz", features=MAPS[1])
    with pytest.raises(InputError, match="00001.npz has no array 'featmap': it holds features"):
        compute(tmp_path / "features.npy", place)
