"""The parts of :mod:`lent` but for the videos: the tests that need CUDA, the rates of the device, steps, sharing.

Each runs in a process of its own: what one breaks, a CUDA context too, is whole for the next.
"""

from __future__ import annotations

import functools
import gc
import importlib.util
import json
import re
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TESTS = ("tests/gpu", "tests/unit/test_numerics.py", "tests/unit/models/test_nvp.py")
OUTCOME = re.compile(r"^(tests/\S+::.+?) (PASSED|FAILED|ERROR|SKIPPED|XFAIL)\b")
MARK = "@lent "  # begins the lines of a part that are results
FRAMES, REPEATS = 24, 10  # of the carried problem; of a step
PLAIN = ("eager", "captured", "tf32", "captured+tf32")
COMPILED = ("compiled", "captured+compiled", "captured+compiled+tf32")
KERNELS = ("triton", "captured+triton")  # of CaDeX++ alone
STEPS = ("fast", "cadex-nomatch", "omnimotion-none", "cpu", "omnimotion-lite", "omnimotion-depth", "cadex")
SHARED_STEPS = 3000  # of each process


@dataclass(frozen=True)
class Given:
    """What a part is told.

    Attributes:
        folder: what ``prepare`` made.
        device: ``cpu`` or ``cuda``.
        tiny: shapes for seconds on a CPU, for a test of the program itself.
        deadline: of :func:`time.monotonic`, after which nothing begins any more.
        steps: of an optimisation, instead of the preset's; None: the preset's.
        methods: presets that videos are tracked with.
    """

    folder: Path
    device: str
    tiny: bool
    deadline: float
    steps: int | None = None
    methods: tuple[str, ...] = ()

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()


def say(line: str, **values: Any) -> None:
    """One result: a line for people, and its numbers."""
    print(MARK + json.dumps({"line": line, **values}), flush=True)


def attempted(what: str, work: Callable[[], None], given: Given) -> None:
    """Do ``work``, or say why not: the time is up, or it fails, whatever the reason; the next thing is still done."""
    if given.left <= 0:
        say(f"{what}: left out, the time is up", left_out=what)
        return
    try:
        work()
    except Exception as error:  # noqa: BLE001 - what fails on a device that nobody has seen must not cost the rest
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        say(f"{what}: failed, {reason}", failed=what, reason=reason)


# --------------------------------------------------------------------------------------------------- tests


def tests(given: Given) -> None:
    """The tests that need CUDA, the slow ones last; without it all of them are skipped."""
    if importlib.util.find_spec("pytest") is None:
        say("pytest is not here: bring its wheel", failed="tests", reason="no pytest")
        return
    for which in ("gpu and not slow", "gpu and slow"):
        attempted(which, functools.partial(_tested, given, which), given)


def _tested(given: Given, which: str) -> None:
    """Tell failures at once, and how many there are of each outcome, of a run that is cut off too."""
    command = [sys.executable, "-m", "pytest", *TESTS, "-m", which, "-v", "--color=no", "-p", "no:cacheprovider"]
    counts: Counter[str] = Counter()
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        stop = threading.Timer(given.left, process.kill)
        stop.start()
        for text in process.stdout:
            print(text, end="", flush=True)  # for the log
            if found := OUTCOME.match(text):
                counts[found[2].lower()] += 1
                if found[2] in ("FAILED", "ERROR"):
                    say(f"{found[2]} {found[1]}", failed=found[1])
        stop.cancel()
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items())) or "none was run"
    end = "cut off" if process.returncode < 0 else f"exit code {process.returncode}"
    failed = {"failed": which} if process.returncode > 0 else {}
    say(f"{which}: {outcomes} ({end})", code=process.returncode, counts=counts, **failed)


# ------------------------------------------------------------------------------------------------ roofline


def roofline(given: Given) -> None:
    """What the device reaches: a large copy, and large matrix products of random numbers in three precisions."""
    import torch

    from everypoint.numerics import products_in

    device = torch.device(given.device)
    cuda, side = device.type == "cuda", 256 if given.tiny else 8192
    name = torch.cuda.get_device_name() if cuda else "CPU"
    say(f"{name}, torch {torch.__version__}", device=name, torch=torch.__version__)
    large = torch.randn(2**20 if given.tiny else 2**30, device=device)
    copied = torch.empty_like(large)
    copy = 2 * large.nbytes / _median(lambda: copied.copy_(large), given)
    say(f"copy {copy / 1e9:.0f} GB/s, read and written", copy=copy)
    for name, kind, precision in (
        ("float32", torch.float32, "float32"),
        ("tf32", torch.float32, "tf32"),
        ("bfloat16", torch.bfloat16, "float32"),
    ):
        first, second = (torch.randn(side, side, device=device, dtype=kind) for _ in range(2))
        with products_in(precision, device):
            rate = 2 * side**3 / _median(lambda: first @ second, given)  # noqa: B023 - called at once
        say(f"products of {side} x {side} in {name}: {rate / 1e12:.3f} TFLOP/s", **{name: rate})


def _median(work: Callable[[], object], given: Given) -> float:
    from measuring import measure

    return statistics.median(
        measure({"it": lambda _: work()}, given.device, 3 if given.tiny else 10, warm_up=3)["it"].wall
    )


# --------------------------------------------------------------------------------------------------- steps


def steps(given: Given) -> None:
    """One optimiser step of each preset in each mode, at the published batches: lines as :mod:`step` has them."""
    import step
    from measuring import Rates, described, rates_of

    rates = Rates(1e9, 1e9, None) if given.tiny else rates_of(given.device)
    say(described(rates), products=rates.products, copy=rates.copy, tf32=rates.tf32)
    for row in step.HEADER.splitlines():
        say(row)
    counted: dict[str, tuple[int, int, float, float]] = {}
    for variant, mode in _modes(given):
        attempted(f"{variant} {mode}", lambda v=variant, m=mode: _step(given, v, m, rates, counted), given)


def _modes(given: Given) -> Iterator[tuple[str, str]]:
    """Fused kernels come later, since one that fails takes the device with it; what takes a minute to compile, last."""
    if given.device == "cpu":
        yield from ((variant, "eager") for variant in (("cpu", "cadex-nomatch") if given.tiny else STEPS))
        return
    cadex = [variant for variant in STEPS if variant.startswith("cadex")]
    others = [variant for variant in STEPS if variant not in cadex]
    for variants, modes in ((STEPS, PLAIN), (cadex, KERNELS), (others, COMPILED)):
        yield from ((variant, mode) for variant in variants for mode in modes)


def _step(given: Given, variant: str, mode: str, rates: Any, counted: dict[str, tuple[int, int, float, float]]) -> None:
    """Measure, say; ``counted`` remembers arithmetic and time of the plain step of each variant."""
    import step
    import torch
    from measuring import measure
    from problem import with_long_range

    from everypoint.optimize.captured import WARM_UP

    if "compiled" in mode:
        torch._dynamo.reset()
    batch = {"pairs": 2, "points": 32} if given.tiny else {}
    made = carried(given.folder)
    if "triton" in mode:
        import cadex_step

        capture = "always" if "captured" in mode else "never"
        trainer = cadex_step.trainer_of(variant, with_long_range(made[1]), given.device, batch, "triton", capture)
    else:
        trainer = step.trainer_of(variant, made, given.device, batch, mode)
    start = round(step.AT * trainer.options.steps)
    work = {mode: step.stepping(trainer, start, mode)}
    warm_up = 1 if mode == "eager" else WARM_UP + 2
    repeats = 1 if given.tiny else REPEATS
    found = measure(work, given.device, repeats, rates, warm_up, counted=("eager",))[mode]
    wall = statistics.median(found.wall)
    if mode == "eager":
        counted[variant] = found.flop, found.bytes, found.roofline, wall
    found.flop, found.bytes, found.roofline, plain = counted.get(variant, (0, 0, 0.0, float("nan")))
    reached = rates._replace(products=rates.tf32) if "tf32" in mode and rates.tf32 else rates
    samples, planned = step.samples_of(trainer), trainer.options.steps
    ratio = "" if mode == "eager" else f"{plain / wall:.2f}"
    text = step.line(variant, mode, found, samples, reached, planned, ratio)
    numbers = {"ms": 1e3 * wall, "flop": found.flop, "bytes": found.bytes, "roofline_ms": 1e3 * found.roofline}
    say(text, variant=variant, mode=mode, peak=found.peak, minutes=wall * planned / 60, **numbers)
    del trainer, work
    gc.collect()


def carried(folder: Path) -> tuple[Any, Any]:
    """The problem that ``prepare`` made: frames uint8 [T, H, W, 3] and matches."""
    from lent_davis import pictures

    from everypoint.artifacts.matches import load_matches

    return pictures(folder / "problem"), load_matches(folder / "problem" / "matches.npz")


# ------------------------------------------------------------------------------------------------- sharing


def sharing(given: Given) -> None:
    """Steps a second of all processes together, when K optimise the preset ``cpu`` at once."""
    alone = 0.0
    for count in (1, 2) if given.tiny else (1, 2, 4):
        if given.left <= 0:
            say(f"{count} processes: left out, the time is up", left_out=str(count))
            continue
        rate = _together(given, count)
        alone = alone or rate
        text = f"{count} at once: {rate:.0f} steps/s together, {rate / alone:.2f} times one alone"
        say(text, processes=count, steps_per_second=rate)


def _together(given: Given, count: int) -> float:
    """Start the workers, let them begin at one moment, and wait for the last."""
    program = [sys.executable, str(Path(__file__).with_name("lent.py")), "part", "worker", str(given.folder)]
    program += ["--device", given.device, *(["--tiny"] if given.tiny else [])]
    workers = [
        subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(count)
    ]
    try:
        for worker in workers:
            while (text := worker.stdout.readline()) != "ready\n":
                if not text:
                    raise RuntimeError(f"a worker ended with code {worker.wait()} before it was ready")
        started = time.perf_counter()
        done = 0
        for worker in workers:
            worker.stdin.write("go\n")
            worker.stdin.flush()
        for worker in workers:
            done += int(worker.stdout.readline())
        return done / (time.perf_counter() - started)
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()


def worker(given: Given) -> None:
    """Optimise the carried problem with the preset ``cpu``: get ready, wait for the word, say how many steps."""
    import step
    import torch
    from measuring import wait

    from everypoint.optimize.captured import WARM_UP

    torch.set_num_threads(1)
    trainer = step.trainer_of(
        "cpu", carried(given.folder), given.device, {}, "captured" if given.device == "cuda" else ""
    )
    count, warm = 5 if given.tiny else SHARED_STEPS, WARM_UP + 2
    for number in range(warm):
        trainer.step(number)
    wait(given.device)
    print("ready", flush=True)
    input()
    for number in range(count):
        trainer.step(warm + number)
    wait(given.device)
    print(count, flush=True)
