"""From a matches table with exact flows to a model file: accuracy, resume, what can go wrong."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from everypoint.artifacts.matches import load_matches, save_matches
from everypoint.artifacts.video import VideoMeta, save_video
from everypoint.config.options import MatchOptions, ModelOptions, Preset
from everypoint.errors import InputError
from everypoint.match.table import build_matches
from everypoint.models.files import load_model
from everypoint.optimize import camera, run
from everypoint.optimize.loop import EXIT_TRY_AGAIN
from everypoint.optimize.planes_trainer import PlanesTrainer
from everypoint.optimize.run import optimize, prepare
from tests.unit.optimize.made import camera_matches, jsonl, same_state, table, tiny_preset
from tests.unit.track.worlds import exact_store, queries_of, scene, truth_of

CPU = torch.device("cpu")
FRAMES = 8


@pytest.fixture(autouse=True)
def quick_camera(monkeypatch) -> None:
    """The camera's fit has its own tests."""
    monkeypatch.setattr(camera, "ADJUSTMENT_BATCH", 1024)
    monkeypatch.setattr(camera, "ADJUSTMENT_STEPS", 100)


def video(folder: Path, frames: int, size: tuple[int, int]) -> Path:
    pictures = np.zeros((frames, *size, 3), np.uint8)
    meta = VideoMeta(
        name="clip",
        source="clip.mp4",
        source_hash="0",
        fps=10.0,
        frames=frames,
        height=size[0],
        width=size[1],
        original_height=size[0],
        original_width=size[1],
        start=0,
        stride=1,
        timestamps=[t / 10 for t in range(frames)],
        cuts=[],
        warnings=[],
    )
    save_video(folder, pictures, meta)
    return folder


def small_preset(**optimize_options) -> Preset:
    chosen = tiny_preset(
        **{
            "steps": 200,
            "warmup": 20,
            "log_every": 80,
            "sampler": {"batch": 512, "adjacent_share": 0.2, "motion_share": 0.4},
            **optimize_options,
        }
    )
    model = ModelOptions(blocks=6, plane_resolutions=(8, 32), plane_channels=8, time_channels=8, depth_scale=0.25)
    return chosen.model_copy(update={"model": model})


@pytest.fixture(scope="module")
def scene_matches(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scene")
    made = scene("two_planes", FRAMES)
    store = exact_store(made, folder / "flow", gaps=(1, 2, 4))
    matches, _ = build_matches(store, None, MatchOptions(per_pair=600), 0, frames=FRAMES)
    save_matches(folder / "matches.npz", matches)
    return folder / "matches.npz"


def held_out_errors(trainer: PlanesTrainer) -> tuple[torch.Tensor, torch.Tensor]:
    """Errors in px of the held-out matches, and which of them move against the camera by more than a pixel."""
    rows = trainer.sampler.held_out
    with torch.no_grad():
        error = trainer.terms(trainer.sampler.gather(rows))[1]
    return error, error > 1.0


def test_a_few_hundred_steps_bring_the_held_out_error_below_a_pixel(scene_matches, tmp_path):
    preset = small_preset()
    start = prepare(load_matches(scene_matches), preset, CPU, 0)
    before, moving = held_out_errors(start)
    assert moving.sum() > 30  # the camera alone does not explain the board
    assert before[moving].median() > 1.5
    out = tmp_path / "out"
    optimize(scene_matches, video(tmp_path / "frames", FRAMES, (64, 64)), preset, out, CPU, 0)
    start.model.load_state_dict(load_model(out / "model.pt").state_dict())
    after, _ = held_out_errors(start)
    assert after.median() < 0.5
    assert after[moving].median() < 1.0
    rows = jsonl(out)
    assert [row["step"] for row in rows] == [80, 160, 200]
    assert rows[-1]["error"] == pytest.approx(float(after.median()), abs=1e-4)
    assert sorted(path.name for path in out.iterdir()) == ["model.pt", "train.jsonl"]
    follows_the_truth(out / "model.pt")


def follows_the_truth(path: Path) -> None:
    """The model read out alone follows true tracks, through occlusion as well."""
    from everypoint.track.model import model_tracks

    made = scene("two_planes", FRAMES)
    queries = queries_of(made, 60)
    tracks, visible = truth_of(made, queries)
    found = model_tracks(load_model(path), queries, 0.1)
    error = np.linalg.norm(found.tracks - tracks, axis=-1)
    assert np.median(error[visible]) < 1.0


# ------------------------------------------------------------------------------------------------ resume, errors


@pytest.fixture
def inputs(tmp_path) -> tuple[Path, Path]:
    matches = camera_matches(square=(1.5, 0.5))
    save_matches(tmp_path / "matches.npz", matches)
    return tmp_path / "matches.npz", video(tmp_path / "frames", matches.frames, matches.size)


def test_a_stopped_job_goes_on_and_writes_the_same_model(inputs, tmp_path, monkeypatch):
    optimize(*inputs, tiny_preset(), tmp_path / "whole", CPU, 0)
    step = PlanesTrainer.step

    def interrupted(self: PlanesTrainer, number: int) -> dict:
        if number == 13:
            signal.raise_signal(signal.SIGUSR1)
        return step(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(PlanesTrainer, "step", interrupted)
        with pytest.raises(SystemExit) as stop:
            optimize(*inputs, tiny_preset(), tmp_path / "parts", CPU, 0)
    assert stop.value.code == EXIT_TRY_AGAIN
    assert not (tmp_path / "parts" / "model.pt").exists()
    taken: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(PlanesTrainer, "step", lambda self, number: (taken.append(number), step(self, number))[1])
        # how often checkpoints are written and whether TensorBoard is fed is no other run
        optimize(*inputs, tiny_preset(checkpoint_seconds=1000.0), tmp_path / "parts", CPU, 0)
    assert taken[0] == 14
    whole, parts = (load_model(tmp_path / name / "model.pt") for name in ("whole", "parts"))
    assert same_state(whole.state_dict(), parts.state_dict())
    assert not (tmp_path / "parts" / "checkpoints").exists()


@pytest.mark.parametrize("change", ["seed", "options", "matches"])
def test_another_seed_option_or_table_starts_afresh(inputs, tmp_path, monkeypatch, change):
    step = PlanesTrainer.step

    def interrupted(self: PlanesTrainer, number: int) -> dict:
        if number == 5:
            signal.raise_signal(signal.SIGTERM)
        return step(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(PlanesTrainer, "step", interrupted)
        with pytest.raises(SystemExit):
            optimize(*inputs, tiny_preset(), tmp_path / "out", CPU, 0)
    taken: list[int] = []
    monkeypatch.setattr(PlanesTrainer, "step", lambda self, number: (taken.append(number), step(self, number))[1])
    if change == "matches":
        save_matches(inputs[0], camera_matches(square=(1.5, 0.5), seed=1))
    preset = tiny_preset(learning_rate=1e-3) if change == "options" else tiny_preset()
    optimize(*inputs, preset, tmp_path / "out", CPU, int(change == "seed"))
    assert taken[0] == 0


@pytest.mark.parametrize(("matmul", "within"), [("float32", "ieee"), ("tf32", "tf32")])
def test_a_training_has_its_precision_and_no_longer(inputs, tmp_path, monkeypatch, matmul, within):
    """As on CUDA, where it is made; steps and held-out errors alike."""
    seen, plain = [], run.products_in
    monkeypatch.setattr(run, "products_in", lambda precision, _: plain(precision, "cuda"))
    for name in ("step", "held_out_error"):
        done = getattr(PlanesTrainer, name)
        note = lambda *given, done=done: (seen.append(torch.backends.cuda.matmul.fp32_precision), done(*given))[1]  # noqa: E731
        monkeypatch.setattr(PlanesTrainer, name, note)
    before = torch.backends.cuda.matmul.fp32_precision
    optimize(*inputs, small_preset(steps=3, log_every=3, matmul=matmul), tmp_path / "out", CPU, 0)
    assert seen == [within] * 4
    assert torch.backends.cuda.matmul.fp32_precision == before


def test_too_few_matches_are_one_sentence_about_the_video(inputs, tmp_path):
    few = np.zeros((30, 2))
    save_matches(inputs[0], table({(0, 1): (few, few), (1, 0): (few, few)}, 6))
    with pytest.raises(InputError, match="clip has only 60 matches"):
        optimize(*inputs, tiny_preset(), tmp_path / "out", CPU, 0)


def test_matches_in_one_place_are_enough_for_a_model(inputs, tmp_path):
    """A blank video with one textured spot: no camera can be fitted, and nothing breaks."""
    spot = np.full((100, 2), 7.0)
    save_matches(inputs[0], table({(0, 1): (spot, spot + 1), (1, 0): (spot + 1, spot)}, 6))
    optimize(*inputs, tiny_preset(), tmp_path / "out", CPU, 0)
    state = load_model(tmp_path / "out" / "model.pt").state_dict()
    assert all(value.isfinite().all() for value in state.values())
