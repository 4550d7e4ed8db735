"""Optimise the motion model of one video: from the matches table to ``model.pt`` and ``train.jsonl``."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch

from everypoint import __version__
from everypoint.artifacts.checkpoint import Checkpoints
from everypoint.artifacts.folder import fingerprint_of, sha256_of
from everypoint.artifacts.matches import Matches, load_matches
from everypoint.artifacts.video import load_frames, load_meta
from everypoint.config.options import Preset
from everypoint.depth.run import load_depth
from everypoint.errors import InputError
from everypoint.models.cadex import CadexModel
from everypoint.models.compiled import compile_blocks, wants_compiling
from everypoint.models.files import build_model, save_model
from everypoint.models.motion import MotionModel
from everypoint.models.pixels import normalise_depth
from everypoint.numerics import products_in
from everypoint.optimize.cadex_sampler import CadexSampler
from everypoint.optimize.cadex_trainer import CadexTrainer
from everypoint.optimize.draws import Course
from everypoint.optimize.field_trainer import FieldTrainer
from everypoint.optimize.loop import train
from everypoint.optimize.pictures import Pictures
from everypoint.optimize.pixels_trainer import PixelsTrainer
from everypoint.optimize.planes_trainer import PlanesTrainer
from everypoint.optimize.progress import Progress
from everypoint.optimize.ramps import cadex_scale, scale_of
from everypoint.optimize.ray_sampler import RaySampler
from everypoint.optimize.sampler import MatchSampler
from everypoint.optimize.trainer import Trainer
from everypoint.optimize.warmstart import depth_from_motion, nearer_by_motion, warm_start

logger = logging.getLogger(__name__)
LEAST_MATCHES = 64

Prior = tuple[np.ndarray, np.ndarray | None]  # depth [T, h, w], and bool of the same shape: known there


def optimize(
    matches_path: Path,
    frames_folder: Path,
    preset: Preset,
    out_folder: Path,
    device: torch.device,
    seed: int,
    depth_path: Path | None = None,
) -> None:
    """Write ``model.pt``, ``train.jsonl`` and ``events/`` into ``out_folder``; go on where a killed run stopped.

    Raises :class:`InputError` when the video has too few matches, :class:`TrainingError` when the loss diverges.
    """
    meta = load_meta(frames_folder)
    matches = load_matches(matches_path)
    if len(matches) < LEAST_MATCHES:
        raise InputError(
            f"video {meta.name} has only {len(matches)} matches",
            "the flows are hardly consistent (a static, blank or very fast video?)",
            "look at filter.json, or raise matches.cycle_threshold",
        )
    fingerprint = fingerprint_of(
        {
            "matches": sha256_of(matches_path),
            "video": [meta.source_hash, meta.start, meta.stride, meta.frames, meta.size],
            "depth": sha256_of(depth_path) if depth_path else None,
            "model": preset.model.model_dump(mode="json", exclude={"cadex": {"kernel"}}),
            "optimize": preset.optimize.model_dump(
                mode="json", exclude={"checkpoint_seconds", "tensorboard", "pictures", "capture", "compile"}
            ),
            "seed": seed,
            "version": __version__,
        }
    )
    images = load_frames(frames_folder) if preset.model.kind == "field" else None
    checkpoints = Checkpoints(out_folder / "checkpoints", fingerprint)
    with products_in(preset.optimize.matmul, device):
        trainer = prepare(matches, preset, device, seed, images, load_depth(depth_path) if depth_path else None)
        progress = Progress(
            out_folder,
            preset.optimize.steps,
            tensorboard=preset.optimize.tensorboard,
            title=meta.name,
            pictures=Pictures(load_frames(frames_folder), preset.optimize.pictures),
        )
        train(trainer, checkpoints, progress)
    save_model(out_folder / "model.pt", trainer.model)
    checkpoints.clear()


def prepare(
    matches: Matches,
    preset: Preset,
    device: torch.device | str,
    seed: int,
    images: np.ndarray | None = None,
    depth: Prior | None = None,
) -> Trainer:
    """Model, sampler and optimiser of one video, ready for step 0.

    Args:
        matches: the table.
        preset: its ``model.kind`` says which model.
        device: where all of it lies.
        seed: of initial values and draws.
        images: uint8 [T, H, W, 3], whose colours the kind field renders.
        depth: prior [T, h, w] and mask of the kinds pixels and cadex; None starts from one depth everywhere, or from
            what ``model.motion_nearer`` makes of it.
    """
    if preset.model.kind == "planes":
        trainer = _prepare_planes(matches, preset, device, seed)
    elif preset.model.kind == "cadex":
        trainer = _prepare_cadex(matches, preset, device, seed, depth)
    else:
        trainer = _prepare_rays(matches, preset, device, seed, images, depth)
    if wants_compiling(preset.optimize.compile, trainer.device):
        compile_blocks(trainer.model)
    return trainer


def _prepare_rays(
    matches: Matches,
    preset: Preset,
    device: torch.device | str,
    seed: int,
    images: np.ndarray | None,
    depth: Prior | None,
) -> FieldTrainer | PixelsTrainer:
    """Model (of kind pixels: on its depth prior), sampler and optimiser."""
    options = preset.optimize
    model = build_model(matches.frames, matches.size, preset.model, seed).to(device)
    sampler = RaySampler(
        matches,
        options.rays,
        Course(seed, options.steps, scale_of(options.steps, options.ray_losses.ramp_steps), options.holdout, device),
    )
    if preset.model.kind == "pixels":
        depth = _with_motion(depth, matches, preset, seed)
        if depth is not None:
            model.set_depth(normalise_depth(*depth, model.frame_size, model.near, model.far))
        return PixelsTrainer(model, sampler, None, options)
    if images is None:
        raise ValueError("a model of kind field needs the frames")
    return FieldTrainer(model, sampler, torch.from_numpy(np.array(images)).to(device), options)


def _prepare_planes(matches: Matches, preset: Preset, device: torch.device | str, seed: int) -> PlanesTrainer:
    """Model with its warm start, sampler and optimiser."""
    start = warm_start(matches, seed)
    model = MotionModel(matches.frames, matches.size, preset.model, seed)
    model.set_camera(start.camera)
    if preset.model.motion_depth:
        maps = depth_from_motion(matches, start.residual, model.depth.size, preset.model.motion_depth)
        model.set_depth(maps)
    sampler = MatchSampler(
        matches,
        preset.optimize.sampler,
        motion=start.residual,
        holdout=preset.optimize.holdout,
        seed=seed,
        device=device,
    )
    return PlanesTrainer(model.to(device), sampler, preset.optimize)


def _prepare_cadex(
    matches: Matches,
    preset: Preset,
    device: torch.device | str,
    seed: int,
    depth: Prior | None,
) -> CadexTrainer:
    """Model on its depth prior, sampler and optimiser."""
    options = preset.optimize
    model = CadexModel(matches.frames, matches.size, preset.model, seed)
    depth = _with_motion(depth, matches, preset, seed)
    if depth is not None:
        model.set_depth(depth[0])
    sampler = CadexSampler(
        matches,
        options.cadex,
        Course(
            seed, options.steps, cadex_scale(options.steps, options.cadex_losses.ramp_steps), options.holdout, device
        ),
    )
    return CadexTrainer(model.to(device), sampler, options)


def _with_motion(depth: Prior | None, matches: Matches, preset: Preset, seed: int) -> Prior | None:
    """The prior with what moves in front, where that is asked for."""
    if not preset.model.motion_nearer:
        return depth
    prior, mask = (None, None) if depth is None else depth
    return nearer_by_motion(prior, mask, matches, preset.model.motion_nearer, seed)
