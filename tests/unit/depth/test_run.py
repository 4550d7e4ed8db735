"""The depth stage: what is written is positive and checked, what was no depth is masked and filled."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from everypoint.artifacts import atomic
from everypoint.config.options import DepthOptions
from everypoint.depth.base import depth_backend
from everypoint.depth.run import compute_depth, fill, load_depth, mask_path
from everypoint.errors import ArtifactError, ConfigError, InputError
from tests.unit.depth.videos import frames_and_meta

NAN, INF = np.nan, np.inf


def folder_of(tmp_path, *maps):
    folder = tmp_path / "maps"
    folder.mkdir()
    for t, values in enumerate(maps):
        np.save(folder / f"{t}.npy", values)
    return DepthOptions(backend="file", folder=str(folder))


def test_constant_depth(tmp_path):
    frames, meta = frames_and_meta(3)
    compute_depth(frames, meta, DepthOptions(backend="constant", value=2.5), tmp_path / "depth.npy")
    depth, mask = load_depth(tmp_path / "depth.npy")
    assert depth.dtype == np.float16
    assert depth.tolist() == [[[2.5]]] * 3
    assert mask.all()
    described = json.loads((tmp_path / "depth.json").read_text())
    assert described["unit"] == "metre"
    assert described["made_by"] == {"backend": "constant", "unit": "metre", "value": 2.5}
    assert described["kept"] == 1


def test_no_depth_is_none(tmp_path):
    frames, meta = frames_and_meta(2)
    assert depth_backend(DepthOptions()) is None
    compute_depth(frames, meta, DepthOptions(), tmp_path / "depth.npy")
    assert load_depth(tmp_path / "depth.npy") is None


@pytest.mark.parametrize("value", [1e6, 1e-9])
def test_a_constant_that_the_file_cannot_hold_is_one_sentence(tmp_path, value):
    frames, meta = frames_and_meta(2)
    with pytest.raises(InputError, match="clip has no depth: every value is .*depth.value"):
        compute_depth(frames, meta, DepthOptions(backend="constant", value=value), tmp_path / "depth.npy")


@pytest.mark.parametrize("name", ["midas", "base", "run", "outliers", "network", ""])
def test_an_unknown_backend_is_one_sentence(name):
    with pytest.raises(ConfigError, match="depth back-end"):
        depth_backend(DepthOptions.model_construct(backend=name))


# --------------------------------------------------------------------------------------------------- no depth


def test_what_is_no_depth_becomes_the_nearest_cell_of_its_frame():
    depth = np.array([[[NAN, 2, 3, INF], [0, -1, 7, 8]]], np.float16)
    valid = np.empty(depth.shape, bool)
    assert fill(depth, valid) == valid.mean()
    assert valid.tolist() == [[[False, True, True, False], [False, False, True, True]]]
    assert depth[0, 0].tolist() == [2, 2, 3, 3] or depth[0, 0].tolist() == [2, 2, 3, 8]  # two cells are equally near
    assert depth[0, 1, 1:].tolist() in ([2, 7, 8], [7, 7, 8])
    assert depth[0, 1, 0] == 2
    again = depth.copy()
    assert fill(again, valid) == 1
    assert valid.all()
    assert np.array_equal(again, depth)


def test_a_frame_without_depth_becomes_the_nearest_frame_and_is_masked():
    depth = np.zeros((5, 1, 2), np.float16)
    depth[1], depth[4] = [[1, NAN]], [[4, 5]]
    valid = np.empty(depth.shape, bool)
    assert fill(depth, valid) == valid.mean()
    assert depth[:, 0].tolist() == [[1, 1], [1, 1], [1, 1], [4, 5], [4, 5]]
    assert valid[:, 0].tolist() == [[False, False], [True, False], [False, False], [False, False], [True, True]]


def test_a_video_without_depth_is_one_sentence():
    with pytest.raises(InputError, match="clip has no depth"):
        fill(np.full((2, 3, 3), NAN, np.float16), np.empty((2, 3, 3), bool), "clip")


def test_depth_beyond_the_type_of_the_file_is_masked_and_filled(tmp_path):
    frames, meta = frames_and_meta(1)
    values = np.full((6, 8), 3.0)
    values[0, 0], values[5, 7], values[2, 2], values[3, 3] = 1e5, 1e-6, 65504, 6.2e-5
    options = folder_of(tmp_path, values).model_copy(update={"outlier_sigma": 0.0})
    compute_depth(frames, meta, options, tmp_path / "depth.npy")
    depth, mask = load_depth(tmp_path / "depth.npy")
    assert np.argwhere(~mask[0]).tolist() == [[0, 0], [5, 7]]
    assert depth[0, 0, 0] == depth[0, 5, 7] == 3
    assert depth[0, 2, 2] == 65504
    assert depth[0, 3, 3] == pytest.approx(6.2e-5, rel=1e-3)


def test_outliers_and_options_of_the_mask(tmp_path):
    frames, meta = frames_and_meta(2)
    wall = 2 + np.arange(24) / 100 + np.zeros((16, 1))
    air = wall.copy()
    air[8, 12] = 0.9
    options = folder_of(tmp_path, wall, air)
    compute_depth(frames, meta, options, tmp_path / "depth.npy")
    mask = load_depth(tmp_path / "depth.npy")[1]
    assert mask[0, 8, 12]
    assert not mask[1, 8, 12]
    for change in ({"outlier_sigma": 0.0}, {"outlier_sigma": 50.0}):
        compute_depth(frames, meta, options.model_copy(update=change), tmp_path / "other.npy")
        assert load_depth(tmp_path / "other.npy")[1].all()


# ------------------------------------------------------------------------------------------------------- files


@pytest.fixture
def written(tmp_path):
    frames, meta = frames_and_meta(2)
    options = folder_of(tmp_path, *(1 + np.random.default_rng(t).random((16, 24)) for t in range(2)))
    compute_depth(frames, meta, options, tmp_path / "depth.npy")
    return tmp_path / "depth.npy"


def test_equal_input_gives_equal_bytes(tmp_path, written):
    frames, meta = frames_and_meta(2)
    options = DepthOptions(backend="file", folder=str(tmp_path / "maps"))
    compute_depth(frames, meta, options, tmp_path / "again" / "depth.npy")
    for name in ("depth.npy", "depth.mask.npy", "depth.json"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def _flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "a bit of the depth": _flip,
    "a bit of the mask": lambda path: _flip(mask_path(path)),
    "a cut": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "another depth": lambda path: atomic.save_npy(path, np.ones((2, 16, 24), np.float16)),
    "another mask": lambda path: atomic.save_npy(mask_path(path), np.ones((2, 16, 24), bool)),
    "another type": lambda path: atomic.save_npy(path, np.ones((2, 16, 24), np.float32)),
    "no mask": lambda path: mask_path(path).unlink(),
    "no description": lambda path: path.with_suffix(".json").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_an_altered_file_is_refused(written, damage):
    load_depth(written)
    damage(written)
    with pytest.raises(ArtifactError):
        load_depth(written)


def test_finding_a_backend_imports_no_network():
    code = (
        "import sys; import everypoint.depth.run; from everypoint.config.options import DepthOptions;"
        "[everypoint.depth.run.depth_backend(DepthOptions(backend=b)) for b in ('constant', 'file')];"
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
