"""Exported clips: written the same everywhere, read as they are, and refused when they do not fit."""

from __future__ import annotations

import os

import cv2
import numpy as np
import pytest

from everypoint.errors import InputError
from everypoint.pips.data import clip_files
from everypoint.pips.data.clips import ClipDataset

S, N, SIZE = 5, 12, (48, 64)


def pictures(seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (S, 6, 8, 3), np.uint8)
    return [cv2.resize(picture, SIZE[::-1], interpolation=cv2.INTER_CUBIC) for picture in small]


def table(seed: int, known: int = N) -> np.ndarray:
    made = np.random.default_rng(seed).uniform(0, 40, (S, N, 4)).astype(np.float32)
    made[..., 2:] = 1
    made[:, known:] = 0
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips")
    for index in range(3):
        clip_files.write_clip(
            clip_files.clip_folder(root, 7 * index), pictures(index), table(index, known=8), {"start": index}
        )
    (root / "logs").mkdir()
    (root / "000099").mkdir()  # a clip whose writer was killed
    return root


def dataset(folder, *, frames=S, points=N, size=SIZE, augment=False, seed=0, **options) -> ClipDataset:
    return ClipDataset(folder, frames, points, size, augment, seed, **options)


def test_a_clip_comes_back(folder):
    clips = dataset(folder)
    assert clips.names == ["000000", "000007", "000014"]
    clip = clips.sample(1)
    assert clip.ok
    assert clip.rgb.shape == (S, 3, *SIZE)
    assert np.abs(clip.rgb.transpose(0, 2, 3, 1).astype(int) - pictures(1)).mean() < 6
    stored = {tuple(row) for row in table(1, known=8)[0]}
    got = np.concatenate([clip.trajs[0], clip.visibs[0, :, None], clip.valids[0, :, None]], axis=1)
    assert {tuple(row) for row in got} == stored
    assert {array.dtype for array in clip[1:4]} == {np.dtype(np.float32)}


def test_tracks_are_drawn_by_seed_index_and_epoch_known_ones_first(folder):
    clips = dataset(folder, points=6)
    first = [clips.sample(0, epoch).trajs[0] for epoch in range(6)]
    np.testing.assert_array_equal(first, [dataset(folder, points=6).sample(0, epoch).trajs[0] for epoch in range(6)])
    assert len({draw.tobytes() for draw in first}) > 3
    assert all(dataset(folder, points=6, seed=seed).sample(2).valids.all() for seed in range(8))
    padded = [dataset(folder, points=6, seed=seed, compat=True).sample(2).valids.all() for seed in range(8)]
    assert not all(padded)  # as published, padding is drawn too


def test_colours_are_augmented_alike_in_all_frames(folder):
    pytest.importorskip("albumentations", reason="the extra pips is not installed")
    plain, changed = dataset(folder).sample(0), [dataset(folder, augment=True, seed=s).sample(0) for s in range(4)]
    assert any(not np.array_equal(clip.rgb, plain.rgb) for clip in changed)
    np.testing.assert_array_equal(changed[1].rgb, dataset(folder, augment=True, seed=1).sample(0).rgb)
    swapped = [dataset(folder, augment=True, seed=s, compat=True).sample(0) for s in range(4)]
    assert any(not np.array_equal(a.rgb, b.rgb) for a, b in zip(changed, swapped))


def test_every_clip_is_checked_not_only_the_first(tmp_path):
    for index in range(2):
        frames = pictures(0)
        clip_files.write_clip(clip_files.clip_folder(tmp_path, index), frames, table(0), {})
    other = [cv2.resize(frame, (80, 40)) for frame in pictures(0)]
    clip_files.write_clip(clip_files.clip_folder(tmp_path, 2), other, table(0), {})
    clip_files.write_clip(clip_files.clip_folder(tmp_path, 3), pictures(0), table(0)[:4], {})
    assert dataset(tmp_path).sample(1).ok
    with pytest.raises(InputError, match=r"000002 cannot be used: it has frames of 40x80, and 48x64 are asked for"):
        dataset(tmp_path).sample(2)
    with pytest.raises(InputError, match=r"000003 .* 4 frames and 12 tracks, and 5 and 12 are asked for"):
        dataset(tmp_path).sample(3)
    with pytest.raises(InputError, match="5 and 13 are asked for"):
        dataset(tmp_path, points=13).sample(0)


def test_a_damaged_video_is_no_sample(tmp_path, caplog):
    folder = clip_files.clip_folder(tmp_path, 0)
    clip_files.write_clip(folder, pictures(0), table(0), {})
    data = (folder / "rgb.mp4").read_bytes()
    for damaged in (data[: len(data) // 2], b"", b"no video at all"):
        (folder / "rgb.mp4").write_bytes(damaged)
        clip = dataset(tmp_path).sample(0)
        assert not clip.ok
        assert clip.rgb.shape == (S, 3, *SIZE)
        assert not clip.rgb.any()
        assert not clip.valids.any()
        assert not clip_files.is_whole(folder, (S, N))
    (folder / "rgb.mp4").unlink()
    assert not dataset(tmp_path).sample(0).ok
    assert "corrupted mp4" in caplog.text


def test_a_clip_is_done_when_both_files_are_there_and_agree(tmp_path):
    folder = clip_files.clip_folder(tmp_path, 0)
    assert not clip_files.is_whole(folder, (S, N))
    clip_files.write_clip(folder, pictures(0), table(0), {})
    assert clip_files.is_whole(folder, (S, N))
    assert not clip_files.is_whole(folder, (S, N + 1))
    video, tracks = (folder / "rgb.mp4").read_bytes(), (folder / "track.npz").read_bytes()
    for name, data in (("rgb.mp4", video[:-1]), ("track.npz", tracks[:-30]), ("track.npz", b"")):
        (folder / name).write_bytes(data)
        assert not clip_files.is_whole(folder, (S, N))
        (folder / "rgb.mp4").write_bytes(video)
        (folder / "track.npz").write_bytes(tracks)
    (folder / "rgb.mp4").unlink()
    assert not clip_files.is_whole(folder, (S, N))


def test_a_damaged_track_file_is_named(tmp_path):
    folder = clip_files.clip_folder(tmp_path, 0)
    clip_files.write_clip(folder, pictures(0), table(0), {})
    (folder / "track.npz").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"000000 cannot be used: track\.npz is missing or damaged"):
        dataset(tmp_path).sample(0)


def test_clips_of_other_programs_are_read(tmp_path):
    """Published exports hold track_g alone."""
    folder = clip_files.clip_folder(tmp_path, 0)
    clip_files.write_clip(folder, pictures(0), table(0), {})
    with open(folder / "track.npz", "wb") as file:
        np.savez(file, track_g=table(0).astype(np.float64))
    assert dataset(tmp_path).sample(0).ok


def test_a_folder_without_clips_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no clip"):
        dataset(tmp_path)
    with pytest.raises(InputError, match="cannot be opened"):
        dataset(tmp_path / "nowhere")


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_bytes_do_not_depend_on_the_number_of_processors(tmp_path):
    before = os.sched_getaffinity(0)
    written = []
    try:
        for name, allowed in (("all", before), ("one", {min(before)})):
            os.sched_setaffinity(0, allowed)
            clip_files.write_clip(tmp_path / name, pictures(3) * 6, table(3), {"start": 1})
            written.append([(tmp_path / name / file).read_bytes() for file in ("rgb.mp4", "track.npz")])
    finally:
        os.sched_setaffinity(0, before)
    assert written[0] == written[1]
