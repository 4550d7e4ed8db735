"""tiny-cuda-nn behind the interface of :class:`everypoint.models.hashgrid.HashNet`; it needs a CUDA device."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from everypoint.errors import MissingPackageError
from everypoint.models.hashgrid import HashNet, complete

INSTALL = "pip install 'git+https://github.com/NVlabs/tiny-cuda-nn/#subdirectory=bindings/torch'"


class TinyCudaNet(nn.Module):
    """tiny-cuda-nn's NetworkWithInputEncoding; arguments and errors of :class:`HashNet`.

    Half precision inside, float32 outside. Its parameters live on the CUDA device from the start.

    Raises:
        MissingPackageError: tiny-cuda-nn is not installed, or finds no CUDA device (it looks when it is imported).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        generator: torch.Generator,
        encoding: Mapping[str, Any] | None = None,
        network: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        encoding, network = complete(inputs, encoding, network)
        seed = int(torch.randint(2**31 - 1, (), generator=generator))
        self.net = tinycudann().NetworkWithInputEncoding(inputs, outputs, encoding, network, seed=seed)
        self.inputs, self.outputs = inputs, outputs

    @property
    def params(self) -> Tensor:
        """All parameters, flat."""
        return self.net.params

    def forward(self, x: Tensor) -> Tensor:
        """Outputs [N, outputs] at ``x`` [N, D] in [0, 1]."""
        return self.net(x).float()


def tinycudann() -> ModuleType:
    """The package, which is built from source; raises :class:`MissingPackageError` where it cannot be used."""
    try:
        import tinycudann
    except (ImportError, OSError, RuntimeError) as error:  # OSError: it is there, a CUDA device is not
        raise MissingPackageError(
            "tiny_cuda_nn needs the package tinycudann and a CUDA device",
            str(error),
            f"run `{INSTALL}` on a machine with the CUDA compiler (BSD-3-Clause), or set tiny_cuda_nn: false for the "
            "same network in PyTorch",
        ) from error
    return tinycudann


def hash_net(inputs: int, outputs: int, generator: torch.Generator, *, tiny_cuda_nn: bool = False) -> nn.Module:
    """The hash grid and its network with the default configuration: in PyTorch, or tiny-cuda-nn's own."""
    return (TinyCudaNet if tiny_cuda_nn else HashNet)(inputs, outputs, generator)
