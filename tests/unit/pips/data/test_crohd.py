"""CroHD's reader, against the rules on rows written by hand."""

from __future__ import annotations

import numpy as np
import pytest

from everypoint.errors import InputError
from everypoint.pips.data import crohd
from tests.unit.pips.data.sets import put

SIZE = (200, 400)


def write(root, heads: dict[int, dict[int, tuple[float, float, int]]], frames: int):
    """Rows of boxes 10 x 20 about centres: head -> frame (from 0) -> (x, y, visibility)."""
    folder = root / "HT21" / "train" / "HT21-01"
    rows = sorted(
        (t + 1, head, x - 5, y - 10, 10, 20, 1, 1, seen)
        for head, path in heads.items()
        for t, (x, y, seen) in path.items()
    )
    (folder / "gt").mkdir(parents=True)
    (folder / "gt" / "gt.txt").write_text("\n".join(",".join(str(cell) for cell in row) for row in rows) + "\n")
    for t in range(frames):
        put(folder / "img1" / f"{t + 1:06d}.jpg", np.full((*SIZE, 3), t, np.uint8))


def line(frames, speed: float, x: float = 50.0, y: float = 100.0):
    return {t: (x + speed * t, y, 1) for t in frames}


def test_which_heads_are_kept(tmp_path):
    heads = {
        1: line(range(20), 10.0),  # a path of 190 pixels
        2: line(range(20), 7.0),  # 133 pixels: too short
        3: line(range(1, 20), 10.0),  # not there in the first frame
        4: line(range(20), 10.0, x=20.0),  # within 32 pixels of the border at first
        5: {t: (60 + 10 * t, 100, int(t != 1)) for t in range(20)},  # hidden in the second frame
        6: line(range(20), 10.0, y=180.0),  # always within 32 pixels of the lower border
    }
    write(tmp_path, heads, 20)
    for corrected in (False, True):
        (clip,) = crohd.sequences(tmp_path, corrected, least=4)
        assert (clip.name, clip.count, clip.size) == ("HT21-01_000000", 20, SIZE)
        np.testing.assert_allclose(clip.trajs[:, 0], [[50 + 10 * t, 100] for t in range(20)])
        assert clip.trajs.shape[1] == 1
        assert clip.visibs.all()
        assert clip.valids.all()


def test_hidden_and_missing_heads_as_published_and_corrected(tmp_path):
    head = {t: (50 + 10 * t, 100, int(t not in (5, 6))) for t in range(20) if t not in (10, 11)}
    slow = {t: (100 + 2 * t, 100, 1) for t in range(20) if t != 10}  # 38 pixels, and 2 x 150 by way of (0, 0)
    write(tmp_path, {1: head, 2: slow, 3: line(range(20), 1.0)}, 20)
    (published,) = crohd.sequences(tmp_path, False, least=4)
    assert published.trajs.shape[1] == 2  # the slow one passes by its gap
    hidden, missing = [5, 6], [10, 11]
    np.testing.assert_allclose(published.trajs[hidden, 0], [[90, 100]] * 2)
    np.testing.assert_allclose(published.trajs[missing, 0], [[140, 100]] * 2)
    assert np.flatnonzero(published.visibs[:, 0] == 0).tolist() == hidden + missing
    assert np.flatnonzero(published.valids[:, 0] == 0).tolist() == missing  # hidden ones are scored
    (corrected,) = crohd.sequences(tmp_path, True, least=4)
    assert corrected.trajs.shape[1] == 1
    np.testing.assert_allclose(corrected.trajs[hidden, 0], [[100, 100], [110, 100]])
    np.testing.assert_allclose(corrected.trajs[missing, 0], [[140, 100]] * 2)
    assert np.flatnonzero(corrected.valids[:, 0] == 0).tolist() == hidden + missing


def test_clips_overlap_by_half_and_are_long_enough(tmp_path):
    write(tmp_path, {1: {t: (50 + 60 * (t % 5), 100, 1) for t in range(23)}}, 23)
    clips = list(crohd.sequences(tmp_path / "HT21", False, length=10, least=8))
    assert [(clip.name[-2:], clip.count) for clip in clips] == [("00", 10), ("05", 10), ("10", 10), ("15", 8)]
    assert np.abs(clips[1].load(2).astype(int) - 7).max() <= 1  # picture 5 + 2, numbered 8
    assert clips[1].trajs[2, 0].tolist() == [50 + 60 * 2, 100]


def test_what_cannot_be_used_is_named(tmp_path):
    with pytest.raises(InputError, match="holds no video of HT21"):
        list(crohd.sequences(tmp_path))
    write(tmp_path, {1: line(range(3), 1.0)}, 3)
    file = tmp_path / "HT21" / "train" / "HT21-01" / "gt" / "gt.txt"
    file.write_text("1,1,a\n")
    with pytest.raises(InputError, match="cannot be read"):
        list(crohd.sequences(tmp_path))
    file.write_text("1,1,2,3\n")
    with pytest.raises(InputError, match="9 numbers"):
        list(crohd.sequences(tmp_path))
