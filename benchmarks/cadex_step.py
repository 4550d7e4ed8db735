"""One optimiser step of CaDeX++ against a literal transcription of the published one: time, memory, equal losses.

    python benchmarks/cadex_step.py --threads 1
    python benchmarks/cadex_step.py --pairs 8 --repeats 3    # a twelfth of the batch
    python benchmarks/cadex_step.py --device cuda --kernel triton    # ours as fused kernels; compare with torch's

As :mod:`step` does for OmniMotion: the literal step (:mod:`published_cadex_step`) gets our weights, our batch, our
depth maps and prior; every weighted loss term and their sum must agree to 1e-4, or the program fails. The step is the
middle one of the run, so that every term has its weight; weights are moved far from their initial values, and a good
part of the points lies in the tails. Where the literal step follows ours, so that the losses can be equal:

* Losses are compared in float64. In float32 the published tails lose 1e-3 of a scene's half-width by cancellation,
  which is noise of a good part of a pixel; the differences in float32 are printed too.
* Spacings and slopes have our guard (1e-3); the camera's centre is the middle of the frame, half a pixel off the
  published one; the depth terms leave out points that are known to be hidden; consecutive points are of one pair.

What is timed is float32 in both (of ours the coordinates are float64), ours with its drawing of the batch, the literal
one on the batch it was given. Columns: see :mod:`step`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from typing import Any

import numpy as np
import torch
from measuring import AGREE, GIB, Measured, Rates, described, hardware, measure, off, rates_of
from problem import problem, with_long_range
from published_cadex_step import Given, PublishedModel, PublishedStep
from torch import Tensor

from everypoint.artifacts.matches import Matches
from everypoint.config.presets import load_preset
from everypoint.models.cadex import CadexModel
from everypoint.optimize.cadex_trainer import CadexTrainer
from everypoint.optimize.ramps import CADEX_STEPS
from everypoint.optimize.ray_sampler import RayBatch
from everypoint.optimize.run import prepare

AT = 0.5  # share of the run
VARIANTS = ("cadex", "cadex-nomatch")


def trainer_of(
    variant: str, matches: Matches, device: str, sampler: dict[str, Any], kernel: str = "torch", capture: str = "never"
) -> CadexTrainer:
    """The trainer of a preset on a depth prior between 2 and 6."""
    changes = {"model": {"cadex": {"kernel": kernel}}, "optimize": {"cadex": sampler, "capture": capture}}
    chosen = load_preset(variant, {variant: changes})
    random = np.random.default_rng(0)
    prior = random.uniform(2, 6, (matches.frames, *(max(side // 4, 1) for side in matches.size)))
    trainer = prepare(matches, chosen, device, 0, None, (prior, np.ones(prior.shape, bool)))
    set_apart(trainer.model)
    return trainer


@torch.no_grad()
def set_apart(model: CadexModel) -> None:
    """Weights as a trained model has them, depths off their prior: no term is zero."""
    generator = torch.Generator().manual_seed(1)
    for conditioner in model.bijection.conditioners:
        conditioner.last.weight *= 10
        for plane in conditioner.planes:
            plane.table.copy_(0.3 * torch.randn(plane.table.shape, generator=generator))
    for grid in model.bijection.time.grids:
        grid.copy_(0.3 * torch.randn(grid.shape, generator=generator))
    model.depth.map *= (1 + 0.1 * torch.randn(model.depth.map.shape, generator=generator)).to(model.depth.map.device)


def literal_of(trainer: CadexTrainer) -> PublishedModel:
    """The literal model with our weights, depths and prior."""
    ours, height, width = trainer.model, *trainer.model.frame_size
    box, kind = (ours.box_centre, ours.box_half), ours.depth.map.dtype
    literal = PublishedModel(
        trainer.prior, ours.frame_size, ours.bijection.order.tolist(), box, ours.bijection.guard,
        ((width - 1) / 2, (height - 1) / 2),
    ).to(ours.depth.map.device, kind)  # fmt: skip
    with torch.no_grad():
        for literal_value, value in _parameters(literal, ours):
            literal_value.copy_(value)
    return literal


def _parameters(literal: PublishedModel, ours: CadexModel) -> list[tuple[Tensor, Tensor]]:
    """The literal model's parameters beside ours in its layout (views, so that gradients may be compared)."""
    found = [(literal.depth, ours.depth.map)]
    found += [(a[0, :, 0], b.t()) for a, b in zip(literal.grids, ours.bijection.time.grids, strict=True)]
    for block, own in zip(literal.blocks, ours.bijection.conditioners, strict=True):
        for plane, table in zip((block.coarse, block.fine), own.planes, strict=True):
            found.append((plane[0], table.table.t().reshape(plane.shape[1:])))
        first, second, last = (block.net[k] for k in (0, 2, 4))
        found.append((first.weight, torch.cat([own.spatial.weight, own.time.weight], 1)))
        found.append((first.bias, own.spatial.bias))
        for layer, mine in ((second, own.middle), (last, own.last)):
            found += [(layer.weight, mine.weight), (layer.bias, mine.bias)]
    return found


def given_of(batch: RayBatch, pairs: int) -> Given:
    """Our batch as the literal step takes it; ``pairs`` 0: every match is a pair of its own."""
    pairs = pairs or len(batch.rows)
    i, j, *rest = (
        values.reshape(pairs, -1, *values.shape[1:])
        for values in (batch.i, batch.j, batch.xy_i, batch.xy_j, batch.omega, ~batch.occluded)
    )
    return Given(i[:, 0], j[:, 0], *rest)


def in_float64(trainer: CadexTrainer) -> None:
    """Let the model, its prior and all that a step hands it be float64."""
    trainer.model.double()
    trainer.prior = trainer.prior.double()
    for name in ("_batch", "draw_long"):
        drawn = getattr(trainer.sampler, name)
        setattr(trainer.sampler, name, lambda *given, drawn=drawn: _double(drawn(*given)))


def _double(batch: RayBatch | None) -> RayBatch | None:
    if batch is None:
        return None
    return batch._replace(**{name: getattr(batch, name).double() for name in ("xy_i", "xy_j", "omega")})


def batches(trainer: CadexTrainer, step: int) -> tuple[RayBatch, RayBatch | None, Given, Given | None]:
    """Our batches of a step, and the same as the literal step takes them."""
    batch, long = trainer.sampler.draw(step), trainer.sampler.draw_long(step)
    return batch, long, given_of(batch, trainer.sampler.options.pairs), None if long is None else given_of(long, 0)


def literal_step_of(variant: str, model: PublishedModel) -> PublishedStep:
    """The literal step of a preset, with consecutive points of one pair."""
    return PublishedStep(model, match=variant == "cadex", across_pairs=False)


def disagreement(trainer: CadexTrainer, literal: PublishedStep, step: int) -> tuple[dict[str, float], list[float]]:
    """Relative differences of the weighted terms and their sum, and of all gradients."""
    batch, long, given, given_long = batches(trainer, step)
    ours = trainer.terms(batch, long, step)
    theirs = literal.terms(given, given_long, step / trainer.options.steps * CADEX_STEPS)
    if ours.keys() != theirs.keys():
        raise SystemExit(f"the steps have different terms: {sorted(ours)} and {sorted(theirs)}")
    ours, theirs = ({**terms, "total": sum(terms.values())} for terms in (ours, theirs))
    losses = {name: off(ours[name].detach(), theirs[name].detach()) for name in ours}
    for model, terms in ((trainer.model, ours), (literal.model, theirs)):
        model.zero_grad()
        terms["total"].backward()
    gradients = []
    with torch.no_grad():  # a model whose values are its gradients, laid out by the same rules
        for model in (trainer.model, literal.model):
            for parameter in model.parameters():
                parameter.data = parameter.grad
        for theirs_, ours_ in _parameters(literal.model, trainer.model):
            gradients.append(off(ours_, theirs_))
    return losses, gradients


def line(variant: str, who: str, found: Measured, points: int, rates: Rates, ratio: str) -> str:
    """One line of the table."""
    wall, processor = statistics.median(found.wall), statistics.median(found.processor)
    rate = found.flop / wall
    cells = f"{1e3 * wall:.0f} | {1e3 * processor:.0f} | {points / wall:,.0f} | {found.flop / 1e12:.3f} | "
    cells += f"{rate / 1e12:.3f} ({100 * rate / rates.products:.0f} %) | "
    cells += f"{1e3 * found.roofline:.1f} ({100 * found.roofline / wall:.0f} %) | {found.peak / GIB:.2f}"
    return f"| {variant} | {who} | {cells} | {ratio} |"


def compare(variant: str, matches: Matches, rates: Rates, arguments: argparse.Namespace) -> float:
    """Print the lines of one variant; the largest relative difference of a loss in float64."""
    sampler = {name: value for name in ("pairs", "points") if (value := getattr(arguments, name))}
    notes, worst = [], 0.0
    for kind in ("float64", "float32"):
        trainer = trainer_of(variant, matches, arguments.device, sampler, arguments.kernel)
        if kind == "float64":
            in_float64(trainer)
        losses, gradients = disagreement(
            trainer, literal_step_of(variant, literal_of(trainer)), round(AT * trainer.options.steps)
        )
        worst = max(losses.values()) if kind == "float64" else worst
        listed = ", ".join(f"{name} {value:.1e}" for name, value in losses.items())
        notes.append(f"{kind}: losses {listed}; gradients at most {max(gradients):.1e}")
    trainer = trainer_of(variant, matches, arguments.device, sampler, arguments.kernel)
    start = round(AT * trainer.options.steps)
    literal = literal_step_of(variant, literal_of(trainer))
    _, _, given, given_long = batches(trainer, start)
    at = start / trainer.options.steps * CADEX_STEPS
    work = {"literal": lambda _: literal.step(given, given_long, at), "ours": lambda k: trainer.step(start + k)}
    measured = measure(work, arguments.device, arguments.repeats, rates)
    points = trainer.sampler.options.pairs * trainer.sampler.options.points
    wall, processor = (
        statistics.median(a / b for a, b in zip(*(getattr(found, clock) for found in measured.values()), strict=True))
        for clock in ("wall", "processor")
    )
    print(line(variant, "literal", measured["literal"], points, rates, ""))
    print(line(variant, "ours", measured["ours"], points, rates, f"{wall:.2f} ({processor:.2f})"))
    print("\n".join(f"<!-- {variant}, relative differences, {note} -->" for note in notes), flush=True)
    return worst


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument(
        "--kernel", choices=["torch", "triton"], default="torch", help="of ours, in float32: model.cadex.kernel"
    )
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=None, help="of a step; default: the preset's")
    parser.add_argument("--points", type=int, default=None, help="of a pair; default: the preset's")
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--size", type=int, nargs=2, default=(128, 128), metavar=("H", "W"))
    arguments = parser.parse_args()
    if arguments.kernel == "triton" and arguments.device != "cuda":
        parser.error("--kernel triton needs --device cuda")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    matches = with_long_range(problem(arguments.frames, tuple(arguments.size))[1])
    rates = rates_of(arguments.device)
    print(f"{time.strftime('%Y-%m-%d')}, {hardware(arguments.device)}, {arguments.repeats} repeats; ", end="")
    print(f"{described(rates)}\n")
    columns = "| variant | step | ms | CPU ms | points/s | TFLOP | TFLOP/s (of products) | roofline ms (share) | "
    print(f"{columns}peak GiB | times faster (CPU) |\n" + "|---" * 10 + "|")
    worst = max(compare(variant, matches, rates, arguments) for variant in arguments.variants)
    if worst > AGREE:
        sys.exit(f"losses differ from the literal step's by up to {worst:.1e} (allowed: {AGREE:g})")


if __name__ == "__main__":
    main()
