"""Feature maps: those of the published encoder, covering the frame, of length 1."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from everypoint.artifacts import atomic
from everypoint.config.options import FeatureOptions
from everypoint.errors import ArtifactError, AssetError, ConfigError
from everypoint.features.base import feature_backend
from everypoint.features.raft_encoder import RaftEncoder, load_encoder
from everypoint.features.run import compute_features, load_features
from everypoint.geometry import pixel_grid, sample_resized
from tests.unit.correspond.scenes import shifted_texture
from tests.unit.correspond.weights import formula_weights, random_network, things


@pytest.fixture(scope="module", params=[True, False], ids=["small", "large"])
def weights(request, tmp_path_factory):
    """(network, path of its weights in the authors' layout or torchvision's)."""
    network, state = random_network(small=request.param)
    path = tmp_path_factory.mktemp("weights") / "raft.pth"
    torch.save(state, path)
    return network, path


@pytest.mark.parametrize("small", [True, False])
def test_authors_layout_gives_the_flow_networks_encoder(tmp_path, small):
    from everypoint.correspond.raft_weights import to_torchvision

    state = formula_weights(small)
    torch.save({f"module.{key}": tensor for key, tensor in state.items()}, tmp_path / "w.pth")
    expected = to_torchvision(state)[0]
    for key, tensor in load_encoder(tmp_path / "w.pth").state_dict().items():
        wanted = expected[f"feature_encoder.{key}"]
        assert torch.equal(tensor, wanted.reshape(tensor.shape)), key


def test_a_map_is_the_flow_networks_encoding_normalised(weights):
    network, path = weights
    frames = shifted_texture(2, (128, 136))
    maps = RaftEncoder(FeatureOptions(weights=str(path))).features(frames)
    assert maps.dtype == np.float16
    for frame, found in zip(frames, maps, strict=True):
        image = torch.from_numpy(frame).permute(2, 0, 1).float() / 127.5 - 1
        code = network.encode_features(image)
        expected = (code / code.norm(dim=0)).permute(1, 2, 0).numpy()
        assert found.shape == expected.shape == (16, 17, expected.shape[2])
        assert np.abs(found - expected).max() < 1e-3


@pytest.mark.parametrize(("size", "cells"), [((100, 130), (13, 17)), ((20, 70), (8, 9)), ((128, 128), (16, 16))])
def test_cells_tile_any_frame(weights, size, cells):
    maps = RaftEncoder(FeatureOptions(weights=str(weights[1]))).features(shifted_texture(1, size))
    assert maps.shape[:3] == (1, *cells)
    assert np.abs(np.linalg.norm(maps.astype(np.float32), axis=-1) - 1).max() < 2e-3


def test_published_features_tell_right_from_wrong():
    frames = shifted_texture(2, (128, 136), (8, -8))
    maps = RaftEncoder(FeatureOptions(weights=str(things()))).features(frames)
    first, second = (torch.from_numpy(m).float().permute(2, 0, 1) for m in maps)
    points = pixel_grid(128, 136)[32:-32, 32:-32].reshape(-1, 2)

    def cosine(shift: tuple[int, int]) -> torch.Tensor:
        a, b = (sample_resized(f, p, (128, 136)) for f, p in ((first, points), (second, points + torch.tensor(shift))))
        return torch.cosine_similarity(a, b, dim=-1)

    assert cosine((8, -8)).median() > 0.7
    assert cosine((-20, 20)).median() < 0.3


# ------------------------------------------------------------------------------------------------ back-end, file


def test_no_features_is_no_backend(tmp_path):
    assert feature_backend(FeatureOptions(backend="none")) is None
    compute_features(np.zeros((3, 8, 8, 3), np.uint8), FeatureOptions(backend="none"), tmp_path / "features.npy")
    assert load_features(tmp_path / "features.npy") is None


@pytest.mark.parametrize("name", ["dino", "base", "run", ""])
def test_an_unknown_backend_is_one_sentence(name):
    with pytest.raises(ConfigError, match="feature back-end"):
        feature_backend(FeatureOptions.model_construct(backend=name, weights="raft-things"))


def test_a_file_without_the_encoder_is_one_sentence(tmp_path):
    torch.save({"fnet.conv1.weight": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(AssetError, match="RAFT's feature encoder"):
        load_encoder(tmp_path / "w.pth")


@pytest.fixture
def written(weights, tmp_path):
    path = tmp_path / "features.npy"
    compute_features(shifted_texture(2, (64, 72)), FeatureOptions(weights=str(weights[1])), path)
    return path


def test_file_round_trip(weights, written):
    expected = RaftEncoder(FeatureOptions(weights=str(weights[1]))).features(shifted_texture(2, (64, 72)))
    assert np.array_equal(load_features(written), expected)
    described = json.loads(written.with_suffix(".json").read_text())
    assert described["made_by"]["backend"] == "raft-encoder"
    assert len(described["made_by"]["weights"]) == 64


@pytest.mark.parametrize("damage", ["flip", "truncate", "replace", "no description"])
def test_an_altered_file_is_refused(written, damage):
    if damage == "flip":
        data = bytearray(written.read_bytes())
        data[-1] ^= 1
        written.write_bytes(data)
    elif damage == "truncate":
        written.write_bytes(written.read_bytes()[:-1])
    elif damage == "replace":
        atomic.save_npy(written, np.zeros((2, 8, 9, 4), np.float16))
    else:
        written.with_suffix(".json").unlink()
    with pytest.raises(ArtifactError):
        load_features(written)


@pytest.mark.parametrize("kind", [torch.float16, torch.float64])
def test_weights_of_another_type_are_read_as_float32(weights, tmp_path, kind):
    path = tmp_path / "other.pth"
    torch.save({key: tensor.to(kind) for key, tensor in torch.load(weights[1], weights_only=True).items()}, path)
    frames = shifted_texture(1, (128, 136))
    expected, found = (RaftEncoder(FeatureOptions(weights=str(one))).features(frames) for one in (weights[1], path))
    assert np.abs(found.astype(np.float32) - expected).max() < 0.01
