"""Feature maps of a long video, made by several jobs and joined."""

from __future__ import annotations

import numpy as np
import pytest

from everypoint.artifacts import atomic
from everypoint.artifacts.folder import sha256_of
from everypoint.errors import ArtifactError
from everypoint.features.run import join_features, load_features


def write(path, maps, made_by="a"):
    atomic.save_npy(path, maps)
    description = {"made_by": {"backend": made_by}, "shape": maps.shape, "frame_size": [8, 8]}
    atomic.write_json(path.with_suffix(".json"), description | {"sha256": sha256_of(path)})
    return path


def test_the_whole_is_the_parts_in_order(tmp_path):
    maps = np.random.default_rng(0).random((7, 2, 3, 4)).astype(np.float16)
    parts = [write(tmp_path / f"{k}.npy", maps[7 * k // 3 : 7 * (k + 1) // 3]) for k in range(3)]
    join_features(parts, tmp_path / "whole.npy")
    assert np.array_equal(load_features(tmp_path / "whole.npy"), maps)
    described = atomic.read_json(tmp_path / "whole.json")
    assert described["shape"] == list(maps.shape)
    assert described["made_by"] == {"backend": "a"}


@pytest.mark.parametrize("shape", [(2, 2, 3, 5), (2, 9, 3, 4)])
def test_parts_of_other_shapes_are_refused(tmp_path, shape):
    parts = [
        write(tmp_path / "0.npy", np.zeros((2, 2, 3, 4), np.float16)),
        write(tmp_path / "1.npy", np.zeros(shape, np.float16)),
    ]
    with pytest.raises(ArtifactError, match="not made alike"):
        join_features(parts, tmp_path / "whole.npy")
    assert not (tmp_path / "whole.npy").exists()


def test_parts_of_another_back_end_are_refused(tmp_path):
    maps = np.zeros((2, 2, 3, 4), np.float16)
    parts = [write(tmp_path / "0.npy", maps), write(tmp_path / "1.npy", maps, "b")]
    with pytest.raises(ArtifactError, match="does not fit"):
        join_features(parts, tmp_path / "whole.npy")


def test_a_damaged_part_is_refused(tmp_path):
    part = write(tmp_path / "0.npy", np.zeros((2, 2, 3, 4), np.float16))
    part.write_bytes(part.read_bytes()[:-1] + b"\1")
    with pytest.raises(ArtifactError, match="damaged"):
        join_features([part], tmp_path / "whole.npy")
