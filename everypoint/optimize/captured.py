"""A step as a graph of the device: recorded once a phase, then replayed without a word from the host.

A graph repeats what was recorded, on the same memory: no choice that Python makes happens again. So what changes from
step to step must be a tensor, and steps that consist of other operations need a graph of their own. Steps of one
*phase* consist of the same ones; phases (a term begins, codes freeze) follow each other and do not come back, so there
is one graph at a time.

The first steps of a phase run as they are, as CUDA asks for: libraries make themselves ready, the optimiser its state.
They are steps like any others. Recording computes nothing; the first replay is the step that was recorded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from everypoint.errors import ResourceError

logger = logging.getLogger(__name__)
WARM_UP = 3  # steps of a phase before it is recorded
Work = Callable[[Any, Any, Tensor], dict[str, Tensor]]


class Graph(Protocol):
    """What a device can record."""

    def warm(self, work: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Run ``work`` where it will be recorded."""
        ...

    def record(self, work: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Record ``work`` without running it; the tensors into which a replay writes its results."""
        ...

    def replay(self) -> None:
        """Do what was recorded."""
        ...

    def release(self) -> None:
        """Give the memory back, once nothing uses it any more."""
        ...


class CudaGraph:
    """A CUDA graph with memory of its own."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._graph = torch.cuda.CUDAGraph()
        self._stream = torch.cuda.Stream(device)

    def warm(self, work: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Run ``work`` on the stream that it will be recorded on."""
        outside = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(outside)
        with torch.cuda.stream(self._stream):
            found = work()
        outside.wait_stream(self._stream)
        return found

    def record(self, work: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Record ``work``; when that fails, the stream of the caller is the current one again."""
        outside = torch.cuda.current_stream(self._device)
        try:
            with torch.cuda.device(self._device), torch.cuda.graph(self._graph, stream=self._stream):
                return work()
        finally:
            torch.cuda.set_stream(outside)

    def replay(self) -> None:
        """Do it again; the host does not wait."""
        self._graph.replay()

    def release(self) -> None:
        """Wait for the last replay and give the memory back."""
        torch.cuda.synchronize(self._device)
        self._graph.reset()


class CapturedStep:
    """Calls ``work(phase, given, numbers)``, from a graph as soon as a phase is warm.

    Args:
        work: what a step does with the tensors that it is given, by the step's phase; reads and writes what lies at the
            same place at every step, and returns scalars by name.
        device: where it happens.
        graph: makes an empty graph.
        required: whether a phase that cannot be recorded is an error; else it is a warning, and steps run as they are.
    """

    def __init__(
        self, work: Work, device: torch.device, graph: Callable[[], Graph] | None = None, *, required: bool = False
    ) -> None:
        self._work, self._device, self._required = work, device, required
        self._make = (lambda: CudaGraph(device)) if graph is None else graph
        self._able, self.recorded, self.replayed = True, 0, 0
        self._graph: Graph | None = None
        self.forget()

    def __call__(self, phase: Hashable, given: Any, numbers: Sequence[float]) -> dict[str, Tensor]:
        """Scalars of a step.

        Args:
            phase: which operations the step consists of.
            given: (nested) named tuples of tensors, of the same shapes at all steps of a phase.
            numbers: what else the step depends on.

        Raises :class:`ResourceError` when a phase cannot be recorded and ``required`` was set.
        """
        key = phase, tuple(tensor.shape for tensor in leaves(given))
        if key != self._key:
            self._begin(key, given, len(numbers))
        self._fill(given, numbers)
        if self._result is None and self._warm >= WARM_UP and self._able:
            self._record(phase)
        if self._result is None:
            self._warm += 1
            return self._graph.warm(lambda: self._work(phase, self._given, self._numbers))
        self._graph.replay()
        self.replayed += 1
        return dict(zip(self._result, torch.stack(list(self._result.values())).unbind(), strict=True))  # not its memory

    def forget(self) -> None:
        """Begin anew: tensors that the work reads or writes lie elsewhere."""
        if self._graph is not None:
            self._graph.release()
        self._graph, self._key, self._result, self._warm = None, None, None, 0
        self._given: Any = None
        self._numbers = torch.empty(0)

    def _begin(self, key: Hashable, given: Any, numbers: int) -> None:
        self.forget()
        self._key, self._graph = key, self._make()
        self._given = mapped(torch.empty_like, given)
        # a CPU's optimiser takes rates in double precision, CUDA's in single
        kind = torch.float32 if self._device.type == "cuda" else torch.float64
        self._numbers = torch.empty(numbers, dtype=kind, device=self._device)

    def _fill(self, given: Any, numbers: Sequence[float]) -> None:
        """Lay down what this step works on; from pinned memory, so that the host need not wait."""
        for mine, theirs in zip(leaves(self._given), leaves(given), strict=True):
            mine.copy_(theirs)
        pinned = self._device.type == "cuda"
        self._numbers.copy_(torch.tensor(numbers, dtype=self._numbers.dtype, pin_memory=pinned), non_blocking=True)

    def _record(self, phase: Hashable) -> None:
        try:
            self._result = self._graph.record(lambda: self._work(phase, self._given, self._numbers))
            self.recorded += 1
        except RuntimeError as error:  # torch's errors of CUDA, of memory too
            reason = str(error).strip().split("\n")[0]
            if self._required:
                raise ResourceError(
                    "the optimiser's step cannot be captured in a CUDA graph", reason, "set optimize.capture: auto"
                ) from error
            logger.warning("the step is not captured in a CUDA graph and runs as it is: %s", reason)
            self._able, self._graph = False, self._make()


def captured_step(work: Work, choice: str, device: torch.device) -> CapturedStep | None:
    """What runs ``work`` by the option ``optimize.capture``; None: nothing but the caller.

    Raises :class:`ResourceError` when it is ``always`` and the device is no CUDA device.
    """
    if choice == "never" or (choice == "auto" and device.type != "cuda"):
        return None
    if device.type != "cuda":
        raise ResourceError(
            "optimize.capture is always", f"the device is {device.type}, and only CUDA has graphs", "set it to auto"
        )
    return CapturedStep(work, device, required=choice == "always")


def leaves(given: Any) -> list[Tensor]:
    """All tensors of nested tuples; None counts as none."""
    if given is None:
        return []
    return [given] if isinstance(given, Tensor) else [tensor for part in given for tensor in leaves(part)]


def mapped(function: Callable[[Tensor], Tensor], given: Any) -> Any:
    """Nested named tuples with ``function`` of every tensor."""
    if given is None:
        return None
    if isinstance(given, Tensor):
        return function(given)
    return type(given)(*(mapped(function, part) for part in given))
