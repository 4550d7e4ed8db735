"""One optimiser step of each preset: time, arithmetic, memory; OmniMotion's against a literal transcription of it.

    python benchmarks/step.py --threads 2
    python benchmarks/step.py --variants omnimotion-none --points 64   # a quarter of the batch, and of the memory
    python benchmarks/step.py --device cuda --repeats 20

OmniMotion's variants first check that both do the same: the literal step (:mod:`published_step`) gets our weights, our
batch and the same places of the samples along their rays; every weighted loss term and their sum must agree to 1e-4.
The program fails where they do not. The step is one at which every term has its weight (60,000 of 100,000); the weights
are initial ones with the frames set apart, so that no term is zero or a difference of equal numbers. In one respect the
literal step follows ours, so that the losses can be equal: consecutive points are of one pair, where the published
flattened batch has 7 differences across two pairs, of 2,047.

Both steps are then timed in turn, ours with its drawing of the batch and its notes of errors, the literal one on the
batch it was given. Columns:

* ms: wall time, the median of the repeats after one step that does not count; CPU ms: processor time of all threads,
  which says more where other programs run.
* samples/s: rays times samples a ray.
* TFLOP: multiplications and additions of matrix products in one step, backward pass included. TFLOP/s: by wall time,
  and its share of the rate that large products reach here, through the faster library, measured before (roofline).
* peak GiB: of the process beyond what it held before the step (CPU: resident; CUDA: allocated).
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import math
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from published_step import Given, PublishedModel, PublishedStep
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, register_flop_formula

from everypoint.artifacts.matches import CYCLE, OCCLUDED, Matches, MatchRows
from everypoint.config.presets import load_preset
from everypoint.match.rows import table_of
from everypoint.models.nvp import NvpBijection
from everypoint.models.omnimotion import OmniMotionModel
from everypoint.optimize import ramps
from everypoint.optimize.colours import frame_colours
from everypoint.optimize.field_trainer import FieldTrainer
from everypoint.optimize.planes_trainer import PlanesTrainer
from everypoint.optimize.ray_sampler import RayBatch
from everypoint.optimize.run import prepare
from everypoint.optimize.trainer import Trainer
from everypoint.scenes.presets import preset as scene_preset
from everypoint.scenes.render import render
from everypoint.scenes.truth import flow

ROOT = Path(__file__).resolve().parents[1]
AT = 0.6  # share of the run at which the step is taken: every term has its weight
AGREE = 1e-4  # relative
GIB = 2**30
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "omnimotion-none": ("omnimotion", {"model": {"nvp": {"affine": "none"}}}),
    "omnimotion-small": ("omnimotion", {"model": {"nvp": {"affine": "small"}}}),
    "omnimotion-large": ("omnimotion", {"model": {"nvp": {"affine": "large"}}}),
    "omnimotion-lite": ("omnimotion-lite", {}),
    "omnimotion-depth": ("omnimotion-depth", {}),
    "cpu": ("cpu", {}),
}


# ------------------------------------------------------------------------------------------------ the problem


def problem(frames: int, size: tuple[int, int], per_pair: int = 512) -> tuple[np.ndarray, Matches]:
    """A rendered scene uint8 [T, H, W, 3] and exact matches of all its pairs, hidden points included."""
    scene, random = scene_preset("parallax", size, frames), np.random.default_rng(0)
    parts = []
    for i in range(frames):
        for j in range(i + 1, frames):
            moved, occluded = flow(scene, i, j)
            ys, xs = (random.integers(0, side, per_pair) for side in size)
            here, hidden = np.stack([xs, ys], -1).astype(np.float32), occluded[ys, xs]
            there = here + moved[ys, xs]
            known = np.isfinite(there).all(-1)
            flags = np.where(hidden, OCCLUDED, CYCLE).astype(np.uint8)[known]
            i_, j_ = (np.full(int(known.sum()), frame, np.int32) for frame in (i, j))
            parts.append(MatchRows(i_, j_, here[known], there[known], np.ones(len(i_), np.float32), flags))
    return render(scene), table_of(MatchRows.join(parts), size, frames, per_pair, 0)


def trainer_of(variant: str, made: tuple[np.ndarray, Matches], device: str, rays: Mapping[str, int]) -> Trainer:
    """The trainer of a variant; ``rays`` replaces pairs and points of its batch."""
    name, changes = VARIANTS[variant]
    images, matches = made
    chosen = load_preset(name, {name: {**changes, "optimize": {"rays": dict(rays)}}})
    trainer = prepare(matches, chosen, device, 0, images)
    if isinstance(trainer.model.bijection, NvpBijection):
        set_apart(trainer.model.bijection)
    return trainer


@torch.no_grad()
def set_apart(bijection: NvpBijection) -> None:
    """Let the frames differ as much as those of a video: at the initial weights a point hardly moves between them."""
    for conditioner in bijection.conditioners:
        conditioner.first.weight[:, : conditioner.code_features] *= 10
        conditioner.last.weight *= 4


# ------------------------------------------------------------------------------------------------ the same weights


NAMES = (  # of our parameters -> of the literal model's
    (r"^bijection\.code_net\.", "code."),
    (r"^field\.net\.", "field."),
    (r"(\.filters\.\d+)\.(weight|bias)$", r"\1.linear.\2"),
    (r"^bijection\.conditioners\.(\d+)\.point\.", r"couplings.\1.point.0."),
    (r"^bijection\.conditioners\.(\d+)\.project\.", r"couplings.\1.project."),
    (r"^bijection\.conditioners\.(\d+)\.", r"couplings.\1.net."),
    (r"^bijection\.affine\.", "affine.net."),
)


def literal_name(name: str, depth: dict[str, int]) -> str:
    """The literal model's name of our parameter; ``depth``: hidden layers of the networks that it numbers."""
    for pattern, replacement in NAMES:
        name = re.sub(pattern, replacement, name)
    head, found, rest = name.partition(".net.")
    if not found:
        return name
    layer, end = rest.rsplit(".", 1)
    number = {"first": 0, "last": depth[head.split(".")[0]]}.get(layer)
    number = 1 + int(layer.removeprefix("middle.")) if number is None else number
    return f"{head}.net.{2 * number}.{end}"  # a rectifier stands behind each linear layer


def literal_of(model: OmniMotionModel) -> tuple[PublishedModel, dict[str, str]]:
    """The literal model with our weights, and our parameters' names -> its own."""
    bijection = model.bijection
    depth = {"couplings": 1 + len(bijection.conditioners[0].middle)}
    depth["affine"] = 0 if bijection.affine is None else 1 + len(bijection.affine.middle)
    own = dict(model.named_parameters())
    names = {name: literal_name(name, depth) for name in own}
    literal = PublishedModel(model.frames, model.frame_size, bijection.order.tolist(), model.options.nvp.affine)
    literal.load_state_dict({names[name]: value.detach().cpu() for name, value in own.items()})
    return literal.to(bijection.order.device), names


def given_of(trainer: FieldTrainer, batch: RayBatch, step: int) -> Given:
    """Our batch as the literal step takes it."""
    pairs = trainer.sampler.options.pairs
    colour = frame_colours(trainer.images, batch.xy_i, batch.i)
    jitter = trainer._places(len(batch.rows), step)
    i, j, *rest = (
        values.reshape(pairs, -1, *values.shape[1:])
        for values in (batch.i, batch.j, batch.xy_i, batch.xy_j, batch.omega, colour, jitter)
    )
    return Given(i[:, 0], j[:, 0], *rest)


def off(ours: Tensor, theirs: Tensor) -> float:
    """Relative difference of two scalars, or of two tensors by their norms."""
    return float((ours - theirs).norm() / theirs.norm().clamp(min=1e-30))


def disagreement(
    trainer: FieldTrainer, literal: PublishedStep, names: Mapping[str, str], step: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Relative differences of the weighted terms and their sum, and of the gradients by our parameters' names."""
    batch = trainer.sampler.draw(step)
    ours = trainer.terms(batch, step)[0]
    weights = ramps.loss_weights(step, trainer.options.steps, trainer.options.ray_losses)
    theirs = literal.terms(given_of(trainer, batch, step), weights)
    if ours.keys() != theirs.keys():
        raise SystemExit(f"the steps have different terms: {sorted(ours)} and {sorted(theirs)}")
    ours, theirs = ({**terms, "total": sum(terms.values())} for terms in (ours, theirs))
    losses = {name: off(ours[name].detach(), theirs[name].detach()) for name in ours}
    own, other = (dict(model.named_parameters()) for model in (trainer.model, literal.model))
    found = torch.autograd.grad(ours["total"], list(own.values()))
    expected = torch.autograd.grad(theirs["total"], [other[names[name]] for name in own])
    return losses, {name: off(a, b) for name, a, b in zip(own, found, expected, strict=True)}


# ------------------------------------------------------------------------------------------------ measuring


@dataclass
class Measured:
    """Steps of one program."""

    wall: list[float] = field(default_factory=list)  # s
    processor: list[float] = field(default_factory=list)  # s
    peak: int = 0  # bytes
    flop: int = 0


def wait(device: str) -> None:
    """Until the device has done all it was asked for."""
    if device == "cuda":
        torch.cuda.synchronize()


def resident(what: str) -> int:
    """Bytes of this process: ``VmRSS`` now, ``VmHWM`` at most since the last reset."""
    found = re.search(rf"{what}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0


def start_of_peak(device: str) -> int:
    """Forget the peak of memory so far; bytes in use now."""
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    ctypes.CDLL(None).malloc_trim(0)  # what the allocator kept of the step before would be counted as in use
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def peak_since(device: str) -> int:
    """The most bytes in use since :func:`start_of_peak`."""
    return torch.cuda.max_memory_allocated() if device == "cuda" else resident("VmHWM")


@register_flop_formula(torch.ops.mkldnn._linear_pointwise)
def _linear_flop(x: Sequence[int], weight: Sequence[int], *_: object, **__: object) -> int:
    return 2 * math.prod(x) * weight[0]


def measure(work: Mapping[str, Callable[[int], object]], device: str, repeats: int) -> dict[str, Measured]:
    """All programs in turn; the first round measures arithmetic and memory and is not timed."""
    measured = {name: Measured() for name in work}
    for name, step in work.items():
        before, counted = start_of_peak(device), FlopCounterMode(display=False)
        with counted:
            step(0)
        wait(device)
        measured[name].peak, measured[name].flop = peak_since(device) - before, counted.get_total_flops()
    for repeat in range(1, repeats + 1):
        for name, step in work.items():
            wait(device)
            wall, processor = time.perf_counter(), time.process_time()
            step(repeat)
            wait(device)
            measured[name].wall.append(time.perf_counter() - wall)
            measured[name].processor.append(time.process_time() - processor)
    return measured


def roofline(device: str) -> float:
    """FLOP/s of large float32 matrix products, through the faster of the libraries at hand."""
    rows, side = (65536, 4096) if device == "cuda" else (2048, 512)
    x, weight = torch.randn(rows, side, device=device), torch.randn(side, side, device=device)
    products = {"matmul": lambda _: x @ weight}
    if device == "cpu" and torch.backends.mkldnn.is_available():
        products["oneDNN"] = lambda _: torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    fastest = min(min(found.wall) for found in measure(products, device, 50).values())
    return 2 * x.numel() * side / fastest


def line(variant: str, who: str, found: Measured, samples: int, reachable: float, ratio: str) -> str:
    """One line of the table."""
    wall, processor = statistics.median(found.wall), statistics.median(found.processor)
    rate = found.flop / wall
    cells = f"{1e3 * wall:.0f} | {1e3 * processor:.0f} | {samples / wall:,.0f} | {found.flop / 1e12:.3f} | "
    cells += f"{rate / 1e12:.3f} ({100 * rate / reachable:.0f} %) | {found.peak / GIB:.2f} | {ratio}"
    return f"| {variant} | {who} | {cells} |"


def samples_of(trainer: Trainer) -> int:
    """Points that a step carries from frame to frame."""
    options = trainer.options
    if isinstance(trainer, PlanesTrainer):
        return options.sampler.batch
    rays = options.rays.pairs * options.rays.points
    return rays * trainer.model.samples if isinstance(trainer, FieldTrainer) else rays


def compare(variant: str, made: tuple[np.ndarray, Matches], reachable: float, arguments: argparse.Namespace) -> float:
    """Print the lines of one variant; the largest relative difference of a loss to the literal one's."""
    rays = {name: value for name in ("pairs", "points") if (value := getattr(arguments, name))}
    trainer = trainer_of(variant, made, arguments.device, rays)
    start = round(AT * trainer.options.steps)
    work: dict[str, Callable[[int], object]] = {"ours": lambda k: trainer.step(start + k)}
    worst, notes = 0.0, ""
    if VARIANTS[variant][0] == "omnimotion" and not arguments.alone:
        model, names = literal_of(trainer.model)
        literal = PublishedStep(model, across_pairs=False)
        losses, gradients = disagreement(trainer, literal, names, start)
        worst, by_name = max(losses.values()), max(gradients, key=gradients.get)
        notes = "losses: " + ", ".join(f"{name} {value:.1e}" for name, value in losses.items())
        notes += f"; gradients: at most {gradients[by_name]:.1e} ({by_name}), median "
        notes += f"{statistics.median(gradients.values()):.1e}"
        fixed = given_of(trainer, trainer.sampler.draw(start), start)
        weights = ramps.loss_weights(start, trainer.options.steps, trainer.options.ray_losses)
        work = {"literal": lambda _: literal.step(fixed, weights), **work}
    measured = measure(work, arguments.device, arguments.repeats)
    ratio = ""
    if "literal" in measured:
        print(line(variant, "literal", measured["literal"], samples_of(trainer), reachable, ""), flush=True)
        wall, processor = (
            statistics.median(
                a / b for a, b in zip(*(getattr(found, clock) for found in measured.values()), strict=True)
            )
            for clock in ("wall", "processor")
        )
        ratio = f"{wall:.2f} ({processor:.2f})"
    print(line(variant, "ours", measured["ours"], samples_of(trainer), reachable, ratio), flush=True)
    if notes:
        print(f"<!-- {variant}: relative differences, {notes} -->", flush=True)
    return worst


def hardware(device: str) -> str:
    """The machine in words."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "CPU")
    return f"{name}, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=None, help="of a step; default: the preset's")
    parser.add_argument("--points", type=int, default=None, help="of a pair; default: the preset's")
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--size", type=int, nargs=2, default=(128, 128), metavar=("H", "W"))
    parser.add_argument("--alone", action="store_true", help="without the literal step")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    made = problem(arguments.frames, tuple(arguments.size))
    reachable = roofline(arguments.device)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    print(f"{time.strftime('%Y-%m-%d')}, {hardware(arguments.device)}, commit {commit.strip()}, ", end="")
    print(f"{arguments.repeats} repeats; matrix products: {reachable / 1e12:.3f} TFLOP/s\n")
    print(
        "| variant | step | ms | CPU ms | samples/s | TFLOP | TFLOP/s (of roofline) | peak GiB | times faster (CPU) |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    worst = max(compare(variant, made, reachable, arguments) for variant in arguments.variants)
    if worst > AGREE:
        sys.exit(f"losses differ from the literal step's by up to {worst:.1e} (allowed: {AGREE:g})")


if __name__ == "__main__":
    main()
