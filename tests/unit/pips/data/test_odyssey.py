"""PointOdyssey's readers: both layouts, what may be missing, the rules of the full-length test, fine-tuning samples."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from everypoint.artifacts import atomic
from everypoint.errors import ArtifactError, InputError
from everypoint.pips.data import odyssey
from everypoint.pips.data.odyssey import OdysseyDataset, full_sequences, read_annotations, sequence_folders, windows
from tests.unit.pips.data.sets import FRAMES, SIZE, put, write_annotations, write_sequence, write_set


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("odyssey"), frames=FRAMES)


def test_both_layouts_say_the_same(tmp_path):
    write_sequence(tmp_path / "new")
    write_sequence(tmp_path / "old", layout="v1.0")
    new, old = read_annotations(tmp_path / "new"), read_annotations(tmp_path / "old")
    for one, other in zip(new, old):
        np.testing.assert_array_equal(one, other)
    assert 0 < new.seen.mean() < new.known.mean() < 1


def test_positions_of_half_precision_become_float32_and_finite(tmp_path):
    xy = np.array([[[1.5, 2], [np.nan, 0], [600.3, 7]]], np.float16)
    write_annotations(tmp_path, xy, np.ones((1, 3), bool), np.ones((1, 3), bool))
    tracks = read_annotations(tmp_path).of(np.array([0]))
    assert tracks.xy.dtype == np.float32
    assert tracks.xy[0].tolist() == [[1.5, 2], [0, 0], [600.5, 7]]  # half precision has steps of 0.5 there
    assert tracks.known[0].tolist() == [True, False, True]


def test_python_objects_are_left_where_they_are(tmp_path):
    """Sequences without trajs_3d hold None as an object array, which only pickle could read."""
    xy, good = np.zeros((2, 3, 2), np.float32), np.ones((2, 3), bool)
    with open(tmp_path / "anno.npz", "wb") as file:
        np.savez(file, trajs_2d=xy, visibs=good, valids=good, trajs_3d=np.array(None, object))
    assert read_annotations(tmp_path).known.all()
    with open(tmp_path / "anno.npz", "wb") as file:
        np.savez(file, trajs_2d=xy, visibs=good, valids=np.array(None, object))
    with pytest.raises(InputError, match="neither visibs and valids"):
        read_annotations(tmp_path)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"trajs_2d": np.zeros((2, 3, 2), np.float32)}, "neither visibs and valids"),
        ({"visibilities": np.ones((2, 3), np.uint8)}, "do not fit each other"),
        ({"trajs_2d": np.zeros((2, 4, 2), np.float32), "visibilities": np.ones((2, 3), np.uint8)}, "do not fit"),
        ({"trajs_2d": np.zeros((2, 3, 2), np.int32), "visibilities": np.ones((2, 3), np.uint8)}, "do not fit"),
    ],
)
def test_annotations_that_cannot_be_used_are_named(tmp_path, arrays, message):
    atomic.save_npz(tmp_path / "anno.npz", **arrays)
    with pytest.raises(InputError, match=message):
        read_annotations(tmp_path)


def test_a_damaged_file_is_named(tmp_path):
    write_sequence(tmp_path / "train" / "a", frames=2)
    file = tmp_path / "train" / "a" / "anno.npz"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(ArtifactError, match=r"anno\.npz"):
        sequence_folders(tmp_path, "train")


def test_masks_of_all_kinds_keep_their_objects_and_their_fog(tmp_path):
    write_sequence(tmp_path, frames=1)
    folder = odyssey.SequenceFolder(tmp_path, 1)
    labels = np.array([[0, 300, 300], [65535, 7, 0]], np.uint16)
    put(tmp_path / "masks" / "mask_00000.png", labels)
    mask = folder.mask(0)
    assert mask.dtype == np.uint8
    assert (mask == 0).tolist() == (labels == 0).tolist()
    assert len(np.unique(mask)) == 4
    colours = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    put(tmp_path / "masks" / "mask_00000.png", colours)
    assert folder.mask(0).shape == (2, 3, 3)


def test_a_sequence_is_as_long_as_its_pictures_and_annotations(tmp_path, caplog):
    write_set(tmp_path, sequences=1, frames=5)
    (tmp_path / "train" / "seq0" / "rgbs" / "rgb_00004.jpg").unlink()
    assert [folder.count for folder in sequence_folders(tmp_path, "train")] == [4]
    assert "4 pictures and annotations of 5 frames" in caplog.text
    with pytest.raises(InputError, match="holds no sequence of PointOdyssey"):
        sequence_folders(tmp_path, "val")


def test_windows_are_those_of_the_definition():
    found = windows([10, 3, 8], 4, (1, 2), step=2)
    assert found == [
        *[(0, 1, start) for start in (0, 2, 4, 6)],
        *[(0, 2, start) for start in (0, 2)],
        *[(2, 1, start) for start in (0, 2, 4)],
        (2, 2, 0),
    ]
    for window in found:
        assert window.frames(4).tolist() == [window.start + n * window.stride for n in range(4)]


# ------------------------------------------------------------------------------------------------- whole videos


def whole(tmp_path, xy, seen, valid, points=256):
    folder = tmp_path / "test" / "a"
    for t in range(len(xy)):
        put(folder / "rgbs" / f"rgb_{t:05d}.jpg", np.zeros((540, 960, 3), np.uint8))
    write_annotations(folder, xy, seen, valid)
    return list(full_sequences(tmp_path, points=points))


def test_rules_of_the_full_length_test(tmp_path):
    xy = np.full((10, 8, 2), 100, np.float32)
    seen, valid = np.ones((10, 8), bool), np.ones((10, 8), bool)
    xy[3, 1] = np.nan  # invalid there, and a jump of less than 512 to (0, 0)
    xy[5, 2] = [700, 100]  # moves 600 pixels in a frame
    seen[0, 3] = False  # hidden at first
    seen[7:, 4] = False  # good in 7 frames only
    xy[6, 5] = [0.5, 100]  # on the border: neither seen nor counted
    xy[6:, 6] = [-80, 100]  # leaves the picture: good in 6 frames only
    seen[8:, 7] = False  # good in 8 frames
    (sequence,) = whole(tmp_path, xy, seen, valid)
    assert (sequence.name, sequence.count, sequence.size) == ("a", 10, (540, 960))
    assert sequence.trajs.shape == (10, 4, 2)  # tracks 0, 1, 5, 7
    np.testing.assert_array_equal(sequence.trajs[3, 1], 0)
    assert sequence.valids[3].tolist() == sequence.visibs[3].tolist() == [1, 0, 1, 1]
    assert sequence.valids[6].tolist() == sequence.visibs[6].tolist() == [1, 1, 0, 1]
    assert sequence.valids[8].tolist() == [1, 1, 1, 1]
    assert sequence.visibs[8].tolist() == [1, 1, 1, 0]
    assert sequence.load(9).shape == (540, 960, 3)
    assert sequence.trajs.dtype == sequence.visibs.dtype == sequence.valids.dtype == np.float32


def test_tracks_of_the_test_are_taken_evenly_and_clamped(tmp_path):
    xy = np.full((10, 7, 2), 100, np.float32)
    xy[:, :, 0] += np.arange(7)
    xy[7], xy[8], xy[9] = [400, 250], [700, 400], [980, 600]  # outside by 20 and 60 at the end
    good = np.ones((10, 7), bool)
    (sequence,) = whole(tmp_path, xy, good, good, points=3)
    assert sequence.trajs[0, :, 0].tolist() == [100, 103, 106]  # linspace(0, 6, 3)
    assert sequence.trajs[9, 0].tolist() == [980, 572]
    assert not sequence.valids[9].any()


def test_a_sequence_without_good_tracks_is_left_out(tmp_path, caplog):
    xy, good = np.full((10, 3, 2), 100, np.float32), np.zeros((10, 3), bool)
    assert whole(tmp_path, xy, good, good) == []
    assert "no track is good enough" in caplog.text


# ------------------------------------------------------------------------------------------------- fine-tuning


def test_samples_depend_on_seed_index_and_epoch_alone(root):
    def dataset(seed: int) -> OdysseyDataset:
        return OdysseyDataset(root, "train", 6, 16, (80, 112), (1, 2), True, seed)

    one, two = dataset(0), dataset(0)
    assert len(one) == 2 * (5 + 2)
    two.sample(3)  # an earlier draw changes nothing
    for index in (0, 9):
        for a, b in zip(one.sample(index, 1), two.sample(index, 1)):
            np.testing.assert_array_equal(a, b)
    index, clip = next((n, clip) for n in range(14) if (clip := one.sample(n)).ok)
    assert clip.rgb.shape == (6, 3, 80, 112)
    assert clip.rgb.dtype == np.uint8
    assert clip.trajs.shape == (6, 16, 2)
    assert clip.visibs.shape == clip.valids.shape == (6, 16)
    assert {array.dtype for array in clip[1:4]} == {np.dtype(np.float32)}
    assert not np.array_equal(clip.rgb, one.sample(index, 1).rgb)
    assert not np.array_equal(clip.rgb, dataset(1).sample(index).rgb)


def test_without_augmentation_pictures_are_the_sources_resized_or_cropped(root):
    clip = OdysseyDataset(root, "train", 4, 16, SIZE, (1,), False, 0).sample(0)
    folder = sequence_folders(root, "train")[0]
    np.testing.assert_array_equal(clip.rgb.transpose(0, 2, 3, 1), [folder.rgb(t) for t in range(4)])
    assert (clip.valids[0] == 1).all()
    assert (clip.visibs[0] == 1).all()


def test_data_sets_travel_to_loader_workers(root):
    one = OdysseyDataset(root, "train", 4, 16, SIZE, (1,), False, 0)
    clip = one.sample(0)
    two = copy.deepcopy(one)  # by the same protocol as pickle
    two._kept.clear()
    np.testing.assert_array_equal(two.sample(0).rgb, clip.rgb)
    for index in range(len(one)):
        one.sample(index)
    assert len(one._kept) <= 2


def test_a_sample_with_too_few_tracks_is_no_sample(root):
    clip = OdysseyDataset(root, "train", 6, 500, (64, 80), (1,), False, 0).sample(0)
    assert not clip.ok
    assert not clip.rgb.any()
    assert clip.trajs.shape == (6, 500, 2)


def test_a_data_set_that_is_too_short_is_refused(root):
    with pytest.raises(InputError, match="gives no clip of 40 frames: its longest sequence has 14 frames"):
        OdysseyDataset(root, "train", 40, 4, (64, 80), (1, 2), False, 0)
