"""Networks that give the same bits on every run: what torch leaves open is settled here as far as it can be."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Pointwise(nn.Module):
    """A 1x1 convolution as a matrix product, for inference: equal cost, and bits that hang less on the thread count.

    On the CPU the library's 1x1 convolution splits the sum over input channels among the threads in many shapes, which
    changes the last bit with their number; its larger kernels were not seen to do so. Matrix products mostly do not:
    RAFT gives equal bits with one and two threads (large: also with three), which nobody guarantees for more.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.stride = convolution.stride
        self.out_channels = convolution.out_channels
        self.register_buffer("weight", convolution.weight[:, :, 0, 0].detach().clone())
        bias = convolution.bias
        self.register_buffer("bias", None if bias is None else bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Maps [B, C, H, W] to [B, D, H / stride, W / stride], channels_last in memory."""
        rows = x[:, :, :: self.stride[0], :: self.stride[1]].permute(0, 2, 3, 1)
        return F.linear(rows, self.weight, self.bias).permute(0, 3, 1, 2)


class Rows(nn.Module):
    """A linear layer for inference that goes through :func:`linear`."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.register_buffer("weight", layer.weight.detach())
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        """Values [..., inputs] to [..., outputs]."""
        return linear(x, self.weight, self.bias)


def replace_linear(module: nn.Module) -> None:
    """Put :class:`Rows` in the place of every linear layer of ``module``."""
    _replace(module, lambda child: type(child) is nn.Linear, Rows)  # what derives from it may compute something else


def replace_pointwise(module: nn.Module) -> None:
    """Put :class:`Pointwise` in the place of every plain 1x1 convolution of ``module``."""
    _replace(module, _is_pointwise, Pointwise)


def _is_pointwise(module: nn.Module) -> bool:
    plain = isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.groups == 1
    return plain and module.padding in ((0, 0), "valid")


def _replace(module: nn.Module, fits: Callable[[nn.Module], bool], made: Callable[[Any], nn.Module]) -> None:
    for name, child in module.named_children():
        if fits(child):
            setattr(module, name, made(child))
        else:
            _replace(child, fits, made)


_PRODUCT = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None


def fast(x: Tensor) -> bool:
    """Whether products of ``x`` go through oneDNN: float32 on a CPU.

    Its kernels use the widest instructions of every processor; torch's own product reaches half of that rate where it
    is not tuned for the processor.
    """
    able = _PRODUCT is not None and torch.backends.mkldnn.enabled
    return able and x.device.type == "cpu" and x.dtype == torch.float32 and x.numel() > 0


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Rows x [M, inputs] times weight^T [inputs, outputs] through oneDNN, without gradient; both may be transposed."""
    return _PRODUCT(x, weight, bias, "none", [], "")


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Values x [..., inputs] times weight^T [inputs, outputs], for inference.

    In float32 on a CPU by oneDNN, which was seen to give equal bits for one and two threads, and with AVX-512 for up to
    eight. (AVX2 alone: 64 rows differ from three threads on, 1,561 rows do not.) torch's own product splits long sums
    among two already on some processors: 1,536 inputs on a recent Xeon.
    """
    if not fast(x) or (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)):
        return F.linear(x, weight, bias)
    return product(x.reshape(-1, x.shape[-1]), weight, bias).view(*x.shape[:-1], -1)


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Torch on so many threads, until the block ends."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def one_thread(x: Tensor) -> contextlib.AbstractContextManager[None]:
    """What a network makes of ``x`` on a CPU by one thread, until the block ends; elsewhere nothing changes.

    For maps of a few hundred cells, which gain nothing from more: on some processors their convolutions split the
    sum over the inputs among the threads, and the last bit changes with their number.
    """
    return threads(1) if x.device.type == "cpu" else contextlib.nullcontext()


@contextlib.contextmanager
def products_in(precision: str, device: torch.device | str) -> Iterator[None]:
    """Matrix products of float32 tensors on CUDA in ``float32`` or ``tf32``, until the block ends; elsewhere nothing.

    TF32 rounds both factors to 11 bits and adds up in float32. The setting is the process's, so it reaches the backward
    pass, compiled code and what a graph records. It is made by its old name, which sets the new one
    (``fp32_precision``) too: where the two differ torch raises as soon as anything asks for the old one, as parts of
    torch.compile do.
    """
    if torch.device(device).type != "cuda":
        yield
        return
    products = torch.backends.cuda.matmul
    before = products.fp32_precision
    products.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        products.allow_tf32 = before == "tf32"
        products.fp32_precision = before  # what was never set is not set again


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Float32 convolutions on CUDA, not TF32, and the same kernel every time."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield
