"""DINO and DINOv2: the arithmetic of the papers, sizes and colours of the published code, cells that tile the frame."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from everypoint.artifacts.folder import sha256_of
from everypoint.config.options import FeatureOptions
from everypoint.errors import ConfigError
from everypoint.features.base import feature_backend
from everypoint.features.run import compute_features, load_features
from everypoint.features.vit import Vit, build_network, encoded_size
from everypoint.features.vit_weights import ARCHITECTURES, expected_shapes, load_vit
from everypoint.geometry import sample_resized
from everypoint.numerics import threads
from tests.unit.correspond.scenes import shifted_texture
from tests.unit.features import plain_vit

SMALL = ("dino-vits16", "dinov2-vits14", "dinov2-vits14-reg")


def authors_file(folder, model, **changed) -> str:
    """A small file with the authors' keys."""
    path = folder / f"{model}.pth"
    state = plain_vit.weights(expected_shapes(model, authors=True))
    if model.startswith("dinov2"):
        state["mask_token"] = torch.zeros(1, ARCHITECTURES[model].width)
    torch.save({**state, **changed}, path)
    return str(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return {model: authors_file(tmp_path_factory.mktemp("weights"), model) for model in SMALL}


def options(files, model="dino-vits16", **more) -> FeatureOptions:
    return FeatureOptions(backend="vit", model=model, weights=files[model], **more)


# --------------------------------------------------------------------------------------------------- arithmetic


def in_float32(state, model, image):
    """Tokens [h, w, C] of the package's network."""
    network = ARCHITECTURES[model]
    vit = build_network(state, model, image.shape[1:])
    with torch.inference_mode():
        tokens = vit.forward_features(torch.from_numpy(image)[None].float())[0, network.prefix :].numpy()
    return tokens.reshape(image.shape[1] // network.patch, image.shape[2] // network.patch, -1)


@pytest.mark.parametrize("model", ARCHITECTURES)
def test_tokens_are_those_of_a_plain_float64_transformer(tmp_path, model):
    network = ARCHITECTURES[model]
    image = np.random.default_rng(1).standard_normal((3, 3 * network.patch, 4 * network.patch))
    published = plain_vit.weights(expected_shapes(model, authors=True))
    about = {"patch": network.patch, "side": network.side, "registers": network.registers}
    expected = plain_vit.tokens(published, image, **about)
    found = in_float32(load_vit(authors_file(tmp_path, model), model), model, image)
    assert found.shape == expected.shape == (3, 4, network.width)
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
    assert np.std(expected, axis=(0, 1)).mean() > 0.1  # patches differ, so that a mixed-up order would be seen


@pytest.mark.parametrize("model", SMALL)
def test_features_are_the_unit_tokens_of_the_normalised_frame(files, model):
    network = ARCHITECTURES[model]
    frame = shifted_texture(1, (3 * network.patch, 5 * network.patch))[0]
    maps = Vit(options(files, model, resize="omnitrackfast")).features(frame[None])
    std = (0.229 if model.startswith("dinov2") else 0.228, 0.224, 0.225)
    image = (frame / 255 - (0.485, 0.456, 0.406)) / std
    tokens = in_float32(load_vit(files[model], model), model, image.transpose(2, 0, 1))
    expected = tokens / np.linalg.norm(tokens, axis=-1, keepdims=True)
    assert maps.dtype == np.float16
    assert maps.shape == (1, 3, 5, 384)
    assert np.abs(maps[0] - expected).max() < 5e-4  # float16


# -------------------------------------------------------------------------------------------------------- sizes


@pytest.mark.parametrize(
    ("model", "frame", "size"),
    [
        ("dino-vits16", (480, 854), (480, 832)),  # OmniMotion's DAVIS
        ("dino-vits16", (854, 480), (832, 480)),
        ("dino-vits16", (256, 256), (480, 448)),  # floor(480 / 64) * 64
        ("dino-vits16", (1080, 1920), (480, 832)),
        ("dino-vits8", (480, 800), (480, 768)),  # 64 pixels, not four of its patches
        ("dinov2-vitb14", (480, 854), (420, 728)),  # the thesis: floor(420 * 854 / 480 / 56) * 56
        ("dinov2-vits14-reg", (256, 256), (420, 392)),
    ],
)
def test_sizes_of_omnimotion(model, frame, size):
    network = ARCHITECTURES[model]
    assert encoded_size(frame, network, "omnimotion", network.short_side) == size


@pytest.mark.parametrize(
    ("model", "frame", "size"),
    [
        ("dinov2-vits14", (480, 854), (476, 854)),
        ("dino-vits16", (256, 250), (256, 240)),
        ("dino-vits8", (5, 9), (8, 8)),
    ],
)
def test_sizes_of_omnitrackfast(model, frame, size):
    assert encoded_size(frame, ARCHITECTURES[model], "omnitrackfast", 0) == size


def test_frames_are_resized_as_opencv_does(files):
    backend = Vit(options(files))
    frame = shifted_texture(1, (150, 211))[0]
    image = backend._images(frame[None], (96, 128))[0].permute(1, 2, 0).double().numpy()
    levels = (image * (0.228, 0.224, 0.225) + (0.485, 0.456, 0.406)) * 255
    assert np.abs(levels - cv2.resize(frame, (128, 96))).max() < 1.01
    assert np.abs(levels - cv2.resize(frame, (128, 96), interpolation=cv2.INTER_AREA)).max() > 2


@pytest.mark.parametrize("side", [100, 32])
def test_a_short_side_that_is_no_whole_number_of_patches_is_refused(files, side):
    with pytest.raises(ConfigError, match=f"short_side {side} .* multiple of its patches' 16 .* nearest is"):
        Vit(options(files, short_side=side))


# ------------------------------------------------------------------------------------------------- in the frame


def test_a_patch_further_on_is_a_cell_further_on(tmp_path):
    """Without positions a transformer sees a set of patches: rolling the picture by patches rolls the map."""
    file = authors_file(tmp_path, "dino-vits16", pos_embed=torch.zeros(1, 197, 384))
    backend = Vit(FeatureOptions(backend="vit", weights=file, resize="omnitrackfast"))
    frame = shifted_texture(1, (64, 96))[0]
    first, second = backend.features(np.stack([frame, np.roll(frame, (16, -32), axis=(0, 1))])).astype(np.float32)
    assert np.abs(np.roll(first, (1, -2), axis=(0, 1)) - second).max() < 2e-3
    assert np.abs(first - second).max() > 0.05


def test_the_cell_of_a_changed_patch_is_found_at_its_pixels(files):
    """One convention: what changes at a place of the frame changes most where the map is sampled at that place."""
    frame = shifted_texture(1, (200, 330))[0]
    other = frame.copy()
    other[150:175, 60:85] = (255, 0, 0)
    maps = Vit(options(files, short_side=192)).features(np.stack([frame, other]))
    first, second = (torch.from_numpy(m).float().permute(2, 0, 1) for m in maps)
    ys, xs = np.mgrid[4:200:8, 4:330:8]
    points = torch.from_numpy(np.stack([xs, ys], -1)).float()
    change = (sample_resized(first, points, (200, 330)) - sample_resized(second, points, (200, 330))).norm(dim=-1)
    y, x = np.unravel_index(int(change.argmax()), change.shape)
    assert abs(xs[y, x] - 72) < 16
    assert abs(ys[y, x] - 162) < 16


# ------------------------------------------------------------------------------------------------ determinism, file


def test_bits_hang_on_no_other_frame_and_no_thread_count(files):
    backend = Vit(options(files, "dinov2-vits14-reg", resize="omnitrackfast"))
    frames = shifted_texture(3, (100, 130))
    together = backend.features(frames)
    assert np.array_equal(backend.features(frames[1:2])[0], together[1])
    with threads(2 if torch.get_num_threads() == 1 else 1):
        assert np.array_equal(backend.features(frames), together)


def test_calls_on_a_gpu_are_bounded_and_give_the_same(files, monkeypatch):
    """Several frames a call, here on the CPU: no frame is lost, doubled or changed beyond the rounding."""
    backend = Vit(options(files, resize="omnitrackfast"))
    frames = shifted_texture(5, (64, 80), (3, 5))
    alone = backend.features(frames)
    monkeypatch.setattr(Vit, "_together", lambda *_: 2)
    steps = []
    assert np.abs(backend.features(frames, lambda: steps.append(1)).astype(np.float32) - alone).max() < 1e-3
    assert len(steps) == 5
    monkeypatch.undo()
    backend._device = torch.device("cuda")
    assert 1 < backend._together(30 * 52) < 100
    assert backend._together(10**9) == 1


def test_the_stage_writes_what_the_backend_gives(files, tmp_path):
    frames = shifted_texture(2, (70, 90))
    chosen = options(files, "dinov2-vits14", resize="omnitrackfast")
    compute_features(frames, chosen, tmp_path / "features.npy")
    maps = load_features(tmp_path / "features.npy")
    assert np.array_equal(maps, Vit(chosen).features(frames))
    assert maps.shape == (2, 5, 6, 384)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["features.json", "features.npy"]


def test_found_by_its_name_and_says_what_its_result_depends_on(files):
    backend = feature_backend(options(files, "dinov2-vits14"))
    described = {"backend": "vit", "model": "dinov2-vits14", "weights": sha256_of(files["dinov2-vits14"])}
    assert backend.describe() == described | {"resize": "omnimotion", "short_side": 420}
    fast = feature_backend(options(files, "dinov2-vits14", resize="omnitrackfast"))
    assert fast.describe() == described | {"resize": "omnitrackfast"}
