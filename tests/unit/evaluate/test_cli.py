"""``everypoint evaluate`` on files of any origin."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest

from everypoint.__main__ import main
from everypoint.artifacts.tracks import save_tracks
from everypoint.evaluate.queries import sample_queries
from tests.unit.evaluate.test_protocol import annotated, tracked

NAMES = ("cat", "dog")


@pytest.fixture
def truth(tmp_path):
    """A TAP-Vid pickle of two videos."""
    content = {}
    for seed, name in enumerate(NAMES):
        points, occluded = annotated(seed)
        content[name] = {"video": np.zeros((12, 4, 4, 3), np.uint8), "points": points, "occluded": occluded}
    path = tmp_path / "truth.pkl"
    path.write_bytes(pickle.dumps(content))
    return path


def predict(folder, seed=0, name="cat", **changes):
    """An npz of perfect tracks in the protocol's order; ``changes`` replace or (None) remove arrays."""
    points, occluded = annotated(seed)
    sampled = sample_queries(points, occluded, "strided")
    arrays = {
        "tracks": sampled.gt_tracks.transpose(1, 0, 2) * 256,
        "occluded": sampled.gt_occluded.T,
        "frame_size": [256, 256],
    }
    arrays |= changes
    path = folder / f"{name}.npz"
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    return path, arrays


def evaluate(capsys, *arguments):
    """Exit code, standard output, standard error."""
    code = main(["evaluate", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def scores_of(capsys, *arguments):
    code, out, err = evaluate(capsys, *arguments, "--json")
    assert code == 0, err
    return json.loads(out)


def test_table_states_the_protocol(tmp_path, truth, capsys):
    path, _ = predict(tmp_path)
    code, out, _ = evaluate(capsys, path, truth, "--video", "cat")
    assert code == 0
    assert "cat: query strided (every 5 frames), 12 frames, scored at 256x256" in out
    assert [line.split() for line in out.splitlines() if line.split()[0] == "AJ"] == [["AJ", "100.00", "%"]]


def test_both_orders_and_all_spellings(tmp_path, truth, capsys):
    _, arrays = predict(tmp_path)
    tracks, occluded = arrays["tracks"], arrays["occluded"]
    forms = [
        {},
        {"tracks": tracks.swapaxes(0, 1), "occluded": occluded.T},
        {"tracks": tracks[None], "occluded": occluded[None].astype(np.uint8)},
        {"occluded": None, "visibility": ~occluded},
        {"occluded": None, "visibs": (~occluded).astype(np.float32)},
    ]
    for changes in forms:
        path, _ = predict(tmp_path, **changes)
        result = scores_of(capsys, path, truth, "--video", "cat")["videos"][0]
        assert result["modes"]["strided"]["average_jaccard"] == 1
        assert result["protocol"]["rows_matched_by"] == "order"


def test_size_scales_and_missing_visibility_is_said(tmp_path, truth, capsys):
    _, arrays = predict(tmp_path)
    path, _ = predict(tmp_path, tracks=arrays["tracks"] * [854 / 256, 480 / 256], frame_size=None, occluded=None)
    code, _, err = evaluate(capsys, path, truth, "--video", "cat")
    assert code == 1
    assert "--size HxW" in err
    result = scores_of(capsys, path, truth, "--video", "cat", "--size", "480x854")["videos"][0]
    scores = result["modes"]["strided"]
    assert scores["average_pts_within_thresh"] == 1
    assert scores["average_jaccard"] < 1
    assert "none given" in result["protocol"]["visibility"]


def test_rows_are_matched_by_queries(tmp_path, truth, capsys):
    points, occluded = annotated()
    sampled = sample_queries(points, occluded, "strided")
    order = np.random.default_rng(0).permutation(len(sampled.ids))
    _, arrays = predict(tmp_path)
    path, _ = predict(
        tmp_path,
        tracks=arrays["tracks"][:, order],
        occluded=arrays["occluded"][:, order],
        queries=sampled.query_points[order][:, [0, 2, 1]] * [1, 256, 256],
    )
    result = scores_of(capsys, path, truth, "--video", "cat")["videos"][0]
    assert result["modes"]["strided"]["average_jaccard"] == 1
    assert result["protocol"]["rows_matched_by"] == "queries"


def test_our_own_tracks_and_annotations_npz(tmp_path, capsys):
    points, occluded = annotated()
    np.savez(tmp_path / "bird.annotations.npz", points=points, occluded=occluded)
    save_tracks(tmp_path / "tracks.npz", tracked(points, occluded))
    for mode in ("first", "strided"):
        arguments = (tmp_path / "tracks.npz", tmp_path / "bird.annotations.npz", "--query-mode", mode)
        result = scores_of(capsys, *arguments)["videos"][0]
        assert result["video"] == "bird"
        assert result["modes"][mode]["average_jaccard"] == 1
        assert result["protocol"]["original_size"] == [480, 854]
    assert "leave --size away" in evaluate(capsys, *arguments, "--size", "256x256")[2]


def test_a_folder_is_a_benchmark(tmp_path, truth, capsys):
    for seed, name in enumerate(NAMES):
        predict(tmp_path, seed, name)
    _, arrays = predict(tmp_path, 1, "dog")
    predict(tmp_path, 1, "dog", tracks=arrays["tracks"] + 100)
    result = scores_of(capsys, tmp_path, truth)
    assert [entry["video"] for entry in result["videos"]] == list(NAMES)
    assert result["mean"]["strided"]["average_jaccard"] == 0.5
    code, out, _ = evaluate(capsys, tmp_path, truth)
    assert code == 0
    assert "mean over 2 videos: query strided" in out


def test_json_has_null_where_there_is_no_value(tmp_path, capsys):
    points, occluded = annotated(tracks=1)  # never visible
    np.savez(tmp_path / "void.annotations.npz", points=points, occluded=occluded)
    np.savez(tmp_path / "void.npz", tracks=np.zeros((12, 0, 2)), occluded=np.zeros((12, 0), bool), frame_size=[8, 8])
    arguments = (tmp_path / "void.npz", tmp_path / "void.annotations.npz")
    result = scores_of(capsys, *arguments)
    assert result["videos"][0]["modes"]["strided"]["average_jaccard"] is None
    assert result["counted"]["strided"]["average_jaccard"] == 0
    assert evaluate(capsys, *arguments)[0] == 0


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"tracks": np.zeros((11, 4, 2))}, r"tracks have shape (11, 4, 2) where (12, "),
        ({"tracks": None}, "has no array 'tracks'"),
        ({"occluded": np.zeros((3, 3), bool)}, "visibility has shape (3, 3)"),
        ({"occluded": np.full((12, 1), 0.5)}, "neither boolean nor 0 and 1"),
        ({"queries": np.zeros((4, 2))}, "queries have shape (4, 2)"),
        ({"frame_size": [0, 1]}, "frame_size is not"),
    ],
)
def test_predictions_that_do_not_fit(tmp_path, truth, capsys, changes, said):
    path, _ = predict(tmp_path, **changes)
    code, out, err = evaluate(capsys, path, truth, "--video", "cat")
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert said in err


def test_files_that_cannot_be_used(tmp_path, truth, capsys):
    path, _ = predict(tmp_path)
    text = tmp_path / "text.npz"
    text.write_text("not an archive")
    notes = tmp_path / "notes.txt"
    notes.write_text("methods: [chain]")
    damaged = tmp_path / "damaged.npz"
    damaged.write_bytes(path.read_bytes().replace(b"descr", b"desc\x00", 1))
    for arguments, said in [
        ((path, truth), "has 2 videos"),
        ((path, truth, "--video", "cow"), "has no video 'cow': it has 2: cat, dog"),
        ((tmp_path / "none.npz", truth, "--video", "cat"), "none.npz is not there"),
        ((path, tmp_path / "none.pkl"), "none.pkl is not there"),
        ((text, truth, "--video", "cat"), "is not an npz file"),
        ((path, text), "text.npz cannot be read: it is no file of numpy arrays (npz or npy); copy or write it again."),
        ((path, notes), "is not a pickle of plain arrays: its bytes are not those of a pickle"),
        ((damaged, truth, "--video", "cat"), "Bad CRC-32 for file 'tracks.npy'; copy or write it again."),
        ((path, path), "has no points and occluded"),
        ((path, truth, "--video", "cat", "--size", "256"), "--size 256 is not a frame size"),
        ((path, truth, "--video", "cat", "--stride", "0"), "stride of 0"),
    ]:
        code, out, err = evaluate(capsys, *arguments)
        assert (code, out, len(err.splitlines())) == (1, "", 1)
        assert said in err


def test_square_shapes_need_the_order(tmp_path, capsys):
    rng = np.random.default_rng(0)
    points, occluded = rng.uniform(0, 1, (5, 5, 2)).astype(np.float32), np.zeros((5, 5), bool)
    np.savez(tmp_path / "square.annotations.npz", points=points, occluded=occluded)
    np.savez(tmp_path / "square.npz", tracks=points * 256, occluded=occluded, frame_size=[256, 256])
    arguments = (tmp_path / "square.npz", tmp_path / "square.annotations.npz")
    assert "fits both orders" in evaluate(capsys, *arguments)[2]
    scores = scores_of(capsys, *arguments, "--order", "nt")["mean"]["strided"]
    assert scores["average_jaccard"] == 1
    assert scores_of(capsys, *arguments, "--order", "tn")["mean"]["strided"]["average_jaccard"] < 1
