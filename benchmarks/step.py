"""One optimiser step of each preset: time, arithmetic, traffic, memory; OmniMotion's against a literal transcription.

    python benchmarks/step.py --threads 2
    python benchmarks/step.py --variants omnimotion-none --points 64   # a quarter of the batch, and of the memory
    python benchmarks/step.py --device cuda --repeats 20 --alone --size 480 854
    python benchmarks/step.py --variants cpu omnimotion-lite --modes eager compiled --alone

A step runs as it is (eager), as a graph of the device (captured, CUDA alone), with its blocks through torch.compile
(compiled; CaDeX++ has none), with its products in TF32 (tf32, CUDA alone), or several of these; on CUDA all that
``MODES`` lists unless ``--modes`` names some. Captured steps are warm and recorded before the clock starts, compiled
ones compiled.

OmniMotion's variants first check that our step and the literal one (:mod:`published_step`) do the same: the literal
step gets our weights, our batch and the same places of the samples along their rays; every weighted loss term and
their sum must agree to 1e-4. The program fails where they do not. The step is one at which every term has its weight
(60,000 of 100,000); the weights are initial ones with the frames set apart, so that no term is zero or a difference of
equal numbers. In one respect the literal step follows ours, so that the losses can be equal: consecutive points are of
one pair, where the published flattened batch has 7 differences across two pairs, of 2,047.

All steps are then timed in turn, ours with its drawing of the batch and its notes of errors, the literal one on the
batch it was given. Columns:

* ms: wall time, the median of the repeats after those that do not count; CPU ms: processor time of all threads,
  which says more where other programs run.
* samples/s: rays times samples a ray.
* TFLOP: multiplications and additions of matrix products in one step, backward pass included. TFLOP/s: by wall time,
  and its share of the rate that large products of its kind reach here, through the faster library, measured before.
* GB: what the plain operators read and write. Roofline: the least time of these operators by both rates
  (:mod:`measuring`), and its share of the time taken; code that fuses operators may take less.
* peak GiB: of the process beyond what it held before its first step (CPU: resident; CUDA: reserved, graphs included).
* minutes: of the preset's whole schedule at this pace.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cadex_step
import numpy as np
import torch
from measuring import AGREE, GIB, Measured, Rates, described, hardware, measure, off, rates_of
from problem import problem, with_long_range
from published_step import Given, PublishedModel, PublishedStep

from everypoint.artifacts.matches import Matches
from everypoint.config.presets import load_preset
from everypoint.models.compiled import compile_blocks
from everypoint.models.nvp import NvpBijection
from everypoint.models.omnimotion import OmniMotionModel
from everypoint.numerics import products_in
from everypoint.optimize import ramps
from everypoint.optimize.captured import WARM_UP
from everypoint.optimize.colours import frame_colours
from everypoint.optimize.field_trainer import FieldTrainer
from everypoint.optimize.planes_trainer import PlanesTrainer
from everypoint.optimize.ray_sampler import RayBatch
from everypoint.optimize.run import prepare
from everypoint.optimize.trainer import Trainer

ROOT = Path(__file__).resolve().parents[1]
AT = 0.6  # share of the run at which the step is taken: every term has its weight
MODES = ("eager", "captured", "compiled", "captured+compiled", "tf32", "captured+tf32", "captured+compiled+tf32")
HEADER = (
    "| variant | step | ms | CPU ms | samples/s | TFLOP | TFLOP/s (of products) | GB | roofline ms (share) | "
    "peak GiB | minutes | times faster (CPU) |\n" + "|---" * 12 + "|"
)
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "omnimotion-none": ("omnimotion", {"model": {"nvp": {"affine": "none"}}}),
    "omnimotion-small": ("omnimotion", {"model": {"nvp": {"affine": "small"}}}),
    "omnimotion-large": ("omnimotion", {"model": {"nvp": {"affine": "large"}}}),
    "omnimotion-lite": ("omnimotion-lite", {}),
    "omnimotion-depth": ("omnimotion-depth", {}),
    "cadex": ("cadex", {}),
    "cadex-nomatch": ("cadex-nomatch", {}),
    "cpu": ("cpu", {}),
    "fast": ("fast", {}),
}


# ------------------------------------------------------------------------------------------------ the trainers


def trainer_of(
    variant: str, made: tuple[np.ndarray, Matches], device: str, batch: Mapping[str, int], mode: str = "eager"
) -> Trainer:
    """The trainer of a variant; ``batch`` replaces pairs and points of its batch."""
    name, changes = VARIANTS[variant]
    images, matches = made
    capture = "always" if "captured" in mode else "never"
    if name.startswith("cadex"):
        trainer = cadex_step.trainer_of(name, with_long_range(matches), device, dict(batch), capture=capture)
    else:
        optimize = {"rays": dict(batch), "capture": capture}
        trainer = prepare(matches, load_preset(name, {name: {**changes, "optimize": optimize}}), device, 0, images)
    if isinstance(trainer.model.bijection, NvpBijection):
        set_apart(trainer.model.bijection)
    if "compiled" in mode:
        compile_blocks(trainer.model)
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


def line(variant: str, who: str, found: Measured, samples: int, rates: Rates, steps: int, ratio: str) -> str:
    """One line of the table."""
    wall, processor = statistics.median(found.wall), statistics.median(found.processor)
    rate = found.flop / wall
    cells = f"{1e3 * wall:.1f} | {1e3 * processor:.1f} | {samples / wall:,.0f} | {found.flop / 1e12:.3f} | "
    cells += f"{rate / 1e12:.3f} ({100 * rate / rates.products:.0f} %) | {found.bytes / 1e9:.1f} | "
    cells += f"{1e3 * found.roofline:.1f} ({100 * found.roofline / wall:.0f} %) | {found.peak / GIB:.2f} | "
    return f"| {variant} | {who} | {cells}{wall * steps / 60:.1f} | {ratio} |"


def samples_of(trainer: Trainer) -> int:
    """Points that a step carries from frame to frame."""
    options = trainer.options
    if isinstance(trainer, PlanesTrainer):
        return options.sampler.batch
    rays = trainer.sampler.options.pairs * trainer.sampler.options.points
    return rays * trainer.model.samples if isinstance(trainer, FieldTrainer) else rays


def checked(trainer: FieldTrainer, start: int) -> tuple[Callable[[int], object], float, str]:
    """The literal step on our batch, the largest relative difference of a loss to ours, and all in words."""
    model, names = literal_of(trainer.model)
    literal = PublishedStep(model, across_pairs=False)
    losses, gradients = disagreement(trainer, literal, names, start)
    worst, by_name = max(losses.values()), max(gradients, key=gradients.get)
    notes = "losses: " + ", ".join(f"{name} {value:.1e}" for name, value in losses.items())
    notes += f"; gradients: at most {gradients[by_name]:.1e} ({by_name}), median "
    notes += f"{statistics.median(gradients.values()):.1e}"
    fixed = given_of(trainer, trainer.sampler.draw(start), start)
    weights = ramps.loss_weights(start, trainer.options.steps, trainer.options.ray_losses)
    return lambda _: literal.step(fixed, weights), worst, notes


def compare(variant: str, made: tuple[np.ndarray, Matches], rates: Rates, arguments: argparse.Namespace) -> float:
    """Print the lines of one variant; the largest relative difference of a loss to the literal one's."""
    batch = {name: value for name in ("pairs", "points") if (value := getattr(arguments, name))}
    modes = [mode for mode in arguments.modes if not (variant.startswith("cadex") and "compiled" in mode)]
    trainers = {mode: trainer_of(variant, made, arguments.device, batch, mode) for mode in modes}
    some = next(iter(trainers.values()))
    start, worst, notes = round(AT * some.options.steps), 0.0, ""
    work: dict[str, Callable[[int], object]] = {
        mode: stepping(trainer, start, mode) for mode, trainer in trainers.items()
    }
    if VARIANTS[variant][0] == "omnimotion" and "eager" in trainers and not arguments.alone:
        literal, worst, notes = checked(trainers["eager"], start)
        work = {"literal": literal, **work}
    warm_up = 1 if set(modes) == {"eager"} else WARM_UP + 2  # the last of these is the first replay
    measured = measure(work, arguments.device, arguments.repeats, rates, warm_up, counted=("literal", "eager"))
    for name, found in measured.items():
        if name in trainers and "eager" in measured:
            same = measured["eager"]
            found.flop, found.bytes, found.roofline = same.flop, same.bytes, same.roofline
        first = next(iter(measured))
        ratio = "" if name == first else faster(measured[first], found)
        reached = rates._replace(products=rates.tf32) if "tf32" in name and rates.tf32 else rates
        print(line(variant, name, found, samples_of(some), reached, some.options.steps, ratio), flush=True)
    if notes:
        print(f"<!-- {variant}: relative differences, {notes} -->", flush=True)
    return worst


def stepping(trainer: Trainer, start: int, mode: str) -> Callable[[int], object]:
    """Steps from ``start`` on; compiled ones on a CPU with torch's own products: oneDNN's cannot be looked into."""
    plain_products = trainer.device.type == "cpu" and "compiled" in mode
    precision = "tf32" if "tf32" in mode else "float32"

    def step(number: int) -> None:
        plain = torch.backends.mkldnn.flags(enabled=False) if plain_products else contextlib.nullcontext()
        with plain, products_in(precision, trainer.device):
            trainer.step(start + number)

    return step


def faster(slow: Measured, fast: Measured) -> str:
    """How many times: by wall time, and by processor time."""
    ratios = [
        statistics.median(a / b for a, b in zip(getattr(slow, clock), getattr(fast, clock), strict=True))
        for clock in ("wall", "processor")
    ]
    return f"{ratios[0]:.2f} ({ratios[1]:.2f})"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=None, help="default: eager; on CUDA all")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=None, help="of a step; default: the preset's")
    parser.add_argument("--points", type=int, default=None, help="of a pair; default: the preset's")
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--size", type=int, nargs=2, default=(128, 128), metavar=("H", "W"))
    parser.add_argument("--alone", action="store_true", help="without the literal step")
    arguments = parser.parse_args()
    arguments.modes = arguments.modes or (MODES if arguments.device == "cuda" else MODES[:1])
    if arguments.device == "cpu" and any("captured" in mode or "tf32" in mode for mode in arguments.modes):
        parser.error("only CUDA has graphs and TF32")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    made = problem(arguments.frames, tuple(arguments.size))
    rates = rates_of(arguments.device)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    print(f"{time.strftime('%Y-%m-%d')}, {hardware(arguments.device)}, commit {commit.strip()}, ", end="")
    print(f"{arguments.repeats} repeats; {described(rates)}\n\n{HEADER}")
    worst = max(compare(variant, made, rates, arguments) for variant in arguments.variants)
    if worst > AGREE:
        sys.exit(f"losses differ from the literal step's by up to {worst:.1e} (allowed: {AGREE:g})")


if __name__ == "__main__":
    main()
