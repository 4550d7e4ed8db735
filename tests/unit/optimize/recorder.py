"""A stand-in for a CUDA graph on a CPU: notes every operator of a step, and repeats them on the same memory.

As a graph it knows nothing of Python: a replay runs the operators that were noted, with the numbers that were noted,
and writes each result to where it was first. Recording leaves no trace in what lay there before: it computes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


class _Tape(TorchDispatchMode):
    """Notes operators, and what lay in memory that they did not make themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[Callable, tuple, dict, Any]] = []
        self.names: list[str] = []
        self._before: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}
        self._made: dict[int, torch.UntypedStorage] = {}  # kept, or its place would be taken by something else

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = _tensors((args, kwargs))
        for tensor in given:
            place = _place(tensor)
            if place and place not in self._made and place not in self._before:
                storage = tensor.untyped_storage()
                self._before[place] = storage, storage.clone()
        args, kwargs = tree_map_only(Tensor, torch.Tensor.detach, (args, kwargs))
        found = function(*args, **kwargs)
        places = {_place(tensor) for tensor in given}
        fresh = [tensor for tensor in _tensors(found) if _place(tensor) not in places]
        for tensor in fresh:
            self._made[_place(tensor)] = tensor.untyped_storage()
        self.names.append(str(function))
        if fresh or function._schema.is_mutable:
            self.lines.append((function, args, kwargs, found))
        return found

    def restore(self) -> None:
        """Let memory be as it was before."""
        for storage, before in self._before.values():
            storage.copy_(before)


class Recorder:
    """The interface of :class:`everypoint.optimize.captured.Graph`."""

    def __init__(self) -> None:
        self.tape: _Tape | None = None

    def warm(self, work):
        return work()

    def record(self, work):
        with _Tape() as self.tape:
            found = work()
        self.tape.restore()
        return found

    @torch.no_grad()
    def replay(self) -> None:
        for function, args, kwargs, found in self.tape.lines:
            args, kwargs, into = tree_map_only(Tensor, torch.Tensor.detach, (args, kwargs, found))
            again = function(*args, **kwargs)
            for old, new in zip(tree_leaves(into), tree_leaves(again), strict=True):
                if isinstance(old, Tensor) and _place(old) != _place(new):
                    old.copy_(new)

    def release(self) -> None:
        self.tape = None
