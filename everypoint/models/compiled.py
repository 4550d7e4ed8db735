"""The blocks of a model through torch.compile: all that happens between two matrix products becomes one pass.

A module names in ``BLOCKS`` the methods that are pure functions of tensors of fixed shapes. They are compiled in place,
for steps alone: without gradients (read-out, held-out error, sweeps), where shapes differ, the plain ones run. The
plain methods are the reference; results differ from theirs by rounding. CaDeX++ has fused kernels instead
(:mod:`everypoint.models.chain_triton`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from everypoint.errors import ResourceError

VARIANTS = 64  # of one block: directions, shapes, which inputs have gradients; torch gives up beyond 8 by itself


def compile_blocks(model: nn.Module, backend: str = "inductor") -> list[str]:
    """Compile the blocks of ``model`` when they are first needed; the names of the blocks.

    A block that cannot be compiled raises :class:`ResourceError` where it is first needed.
    """
    import torch._dynamo  # takes seconds

    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, VARIANTS)
    names = []
    for path, module in model.named_modules():
        for name in getattr(module, "BLOCKS", ()):
            setattr(module, name, _for_steps(getattr(module, name), backend))
            names.append(f"{path}.{name}".lstrip("."))
    return names


def wants_compiling(choice: str, device: torch.device) -> bool:
    """The option ``optimize.compile``; auto stays plain until a device has timed both.

    Raises :class:`ResourceError` when it is ``always`` and the device is no CUDA device: a CPU's results would change.
    """
    if choice == "always" and device.type != "cuda":
        raise ResourceError(
            "optimize.compile is always", f"the device is {device.type}, and it is for CUDA", "set it to auto"
        )
    return choice == "always"


def _for_steps(plain: Callable[..., Any], backend: str) -> Callable[..., Any]:
    """``plain``, compiled where gradients are wanted."""
    fast = torch.compile(plain, fullgraph=True, dynamic=False, backend=backend)

    def chosen(*values: Any, **names: Any) -> Any:
        if not torch.is_grad_enabled():
            return plain(*values, **names)
        try:
            return fast(*values, **names)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = str(error).strip().split("\n")[0]
            raise ResourceError(
                f"{plain.__qualname__} cannot be compiled", reason, "set optimize.compile: never"
            ) from error

    return chosen
