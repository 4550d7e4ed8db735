"""What the benchmarks of steps share: clocks, memory, the arithmetic and traffic of a step, and what a device can do.

The roofline of a step is the sum over its operators of the longer of two times: its products at the rate of large
products, its tensors at the rate of a large copy, both measured on the device. It is that of plain torch, where every
operator reads its inputs and writes its results; fused code moves less and may stay below it.
"""

from __future__ import annotations

import ctypes
import gc
import math
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, register_flop_formula

AGREE = 1e-4  # relative difference of losses that is allowed
GIB = 2**30


@register_flop_formula(torch.ops.mkldnn._linear_pointwise)
def _linear_flop(x: Sequence[int], weight: Sequence[int], *_: object, **__: object) -> int:
    return 2 * math.prod(x) * weight[0]


class Rates(NamedTuple):
    """What a device reaches."""

    products: float  # FLOP/s of large float32 matrix products, as the steps compute them
    copy: float  # bytes/s read and written by a large copy
    tf32: float | None  # FLOP/s of products in TF32, where there is any


class Counted(TorchDispatchMode):
    """FLOP of matrix products, bytes of all operators' tensors, and the roofline's seconds, of what runs within."""

    def __init__(self, rates: Rates) -> None:
        super().__init__()
        self.flop, self.bytes, self.seconds, self._rates = 0, 0, 0.0, rates

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        found = function(*args, **(kwargs or {}))
        given = _tensors((args, kwargs))
        places = {tensor.untyped_storage().data_ptr() for tensor in given}
        fresh = [tensor for tensor in _tensors(found) if tensor.untyped_storage().data_ptr() not in places]
        if not fresh and not function._schema.is_mutable:
            return found  # a view
        formula = flop_registry.get(function._overloadpacket)
        flop = formula(*args, **(kwargs or {}), out_val=found) if formula else 0
        moved = _moved(str(function), args, given, fresh)
        self.flop, self.bytes = self.flop + flop, self.bytes + moved
        self.seconds += max(flop / self._rates.products, moved / self._rates.copy)
        return found


def _moved(name: str, args: tuple, given: list[Tensor], fresh: list[Tensor]) -> int:
    """Bytes that an operator reads and writes."""
    if "index" in name or "gather" in name:  # of the table no more than the rows that are named
        table = args[0]
        others = sum(tensor.nbytes for tensor in given if tensor is not table)
        return others + 2 * (sum(tensor.nbytes for tensor in fresh) or max(tensor.nbytes for tensor in given[1:]))
    changed = 0 if fresh or not given else (sum(t.nbytes for t in given) if "_fused" in name else given[0].nbytes)
    return sum(tensor.nbytes for tensor in given) + sum(tensor.nbytes for tensor in fresh) + changed


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


@dataclass
class Measured:
    """Steps of one program."""

    wall: list[float] = field(default_factory=list)  # s
    processor: list[float] = field(default_factory=list)  # s
    peak: int = 0  # bytes
    flop: int = 0
    bytes: int = 0
    roofline: float = 0.0  # s


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
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_reserved()
    ctypes.CDLL(None).malloc_trim(0)  # what the allocator kept of the step before would be counted as in use
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def peak_since(device: str) -> int:
    """The most bytes in use since :func:`start_of_peak`."""
    return torch.cuda.max_memory_reserved() if device == "cuda" else resident("VmHWM")


def measure(
    work: Mapping[str, Callable[[int], object]],
    device: str,
    repeats: int,
    rates: Rates | None = None,
    warm_up: int = 1,
    counted: Sequence[str] | None = None,
) -> dict[str, Measured]:
    """All programs in turn; the first rounds measure memory and, with ``rates``, arithmetic, and are not timed.

    Args:
        work: step number -> anything.
        device: ``cpu`` or ``cuda``.
        repeats: rounds that are timed.
        rates: of the device.
        warm_up: rounds before these, one at least.
        counted: programs whose arithmetic is counted, in the first round; None: all.
    """
    measured = {name: Measured() for name in work}
    for name, step in work.items():
        before = start_of_peak(device)
        if rates is not None and (counted is None or name in counted):
            with Counted(rates) as count:
                step(0)
            found = measured[name]
            found.flop, found.bytes, found.roofline = count.flop, count.bytes, count.seconds
        else:
            step(0)
        for number in range(1, warm_up):
            step(number)
        wait(device)
        measured[name].peak = peak_since(device) - before
    for repeat in range(warm_up, warm_up + repeats):
        for name, step in work.items():
            wait(device)
            wall, processor = time.perf_counter(), time.process_time()
            step(repeat)
            wait(device)
            measured[name].wall.append(time.perf_counter() - wall)
            measured[name].processor.append(time.process_time() - processor)
    return measured


def rates_of(device: str) -> Rates:
    """What the device reaches: products through the faster of the libraries at hand, a copy larger than any cache."""
    rows, side = (65536, 4096) if device == "cuda" else (2048, 512)
    x, weight = torch.randn(rows, side, device=device), torch.randn(side, side, device=device)
    products = {"matmul": lambda _: x @ weight}
    if device == "cpu" and torch.backends.mkldnn.is_available():
        products["oneDNN"] = lambda _: torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    flop = 2 * x.numel() * side
    plain, tf32 = flop / _fastest(products, device), None
    if device == "cuda":
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high")
        tf32 = flop / _fastest(products, device)
        torch.set_float32_matmul_precision(before)
    there, back = (torch.zeros(2**28 if device == "cuda" else 2**26, device=device) for _ in range(2))
    return Rates(plain, 2 * there.nbytes / _fastest({"copy": lambda _: back.copy_(there)}, device), tf32)


def _fastest(work: Mapping[str, Callable[[int], object]], device: str) -> float:
    return min(min(found.wall) for found in measure(work, device, 30).values())


def described(rates: Rates) -> str:
    """Rates in words."""
    text = f"matrix products {rates.products / 1e12:.3f} TFLOP/s"
    text += "" if rates.tf32 is None else f" (TF32 {rates.tf32 / 1e12:.0f})"
    return f"{text}, copy {rates.copy / 1e9:.0f} GB/s"


def hardware(device: str) -> str:
    """The machine in words."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "CPU")
    return f"{name}, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}"


def off(ours: Tensor, theirs: Tensor) -> float:
    """Relative difference of two scalars, or of two tensors by their norms."""
    return float((ours - theirs).norm() / theirs.norm().clamp(min=1e-30))
