"""Which device a job computes on, and with how many threads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from everypoint.errors import ResourceError
from everypoint.stages.devices import claim

if TYPE_CHECKING:
    import torch


def without_torch(threads: int) -> str:
    """For stages that need OpenCV and numpy only: set the threads, spare the seconds of importing torch."""
    import cv2

    cv2.setNumThreads(max(1, threads))
    return "cpu"


def prepare(device: str, threads: int = 1) -> torch.device:
    """Set the threads of torch and OpenCV and return the device that ``auto``, ``cpu`` or ``cuda`` means here.

    Of several GPUs this process takes a free one (:mod:`everypoint.stages.devices`). Raises :class:`ResourceError` when
    ``cuda`` is asked for and there is none.
    """
    if device != "cpu":
        claim()
    import torch

    without_torch(threads)
    torch.set_num_threads(max(1, threads))
    if device == "cuda" and not torch.cuda.is_available():
        raise ResourceError("there is no CUDA device", cure="set device to auto or cpu, or run where there is a GPU")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
