"""Errors that mean that memory ran out are known as such, and the cure names options that exist."""

from __future__ import annotations

import errno
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch

from everypoint.config.options_pips import PipsTrainOptions
from everypoint.stages.memory import LOWER, shortage
from tests.guards.snakefiles import rules
from tests.jobs import texts
from tests.shared import ROOT

TORCH = (
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 7.79 GiB of which 1.2 GiB is free. "
    "Including non-PyTorch memory, this process has 6 GiB memory in use. "
    "See https://pytorch.org/docs for PYTORCH_ALLOC_CONF"
)


def raised(function, *arguments) -> Exception:
    with pytest.raises(Exception) as caught:
        function(*arguments)
    return caught.value


REAL = {
    "numpy": lambda: np.empty((10**6, 10**6, 10**3)),
    "python": lambda: bytearray(2**62),
    "torch": lambda: torch.empty(10**16),
    "OpenCV": lambda: cv2.copyMakeBorder(np.zeros((9, 9), np.uint8), 2**30, 0, 2**30, 0, cv2.BORDER_CONSTANT),
}


@pytest.mark.parametrize("library", REAL)
def test_real_shortages_of_the_machine(library):
    error = shortage(raised(REAL[library]), "frames")
    assert str(error).startswith("the machine, or what the job may use of it, has not enough memory for frames")
    assert "frames.max_side" in str(error)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError(TORCH),
        torch.cuda.OutOfMemoryError(TORCH),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("CUDA driver error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ],
    ids=lambda error: type(error).__name__ + str(error)[:30],
)
def test_shortages_of_a_gpu(error):
    sentence = str(shortage(error, "flow"))
    assert sentence.startswith("the GPU has not enough memory for flow: ")
    assert all(key in sentence for key in ("flow.batch", "flow.volume_gib", "frames.max_side", "jobs.per_gpu"))
    assert "http" not in sentence
    assert "\n" not in sentence


def test_the_first_sentence_of_torch_is_enough():
    assert "has not enough memory for flow: CUDA out of memory; lower flow.batch" in str(
        shortage(torch.OutOfMemoryError(TORCH), "flow")
    )


def test_a_shortage_behind_another_error_is_found():
    error = ValueError("a batch failed")
    error.__cause__ = OSError(errno.ENOMEM, "Cannot allocate memory")
    assert shortage(error, "matches")
    error.__cause__.__cause__ = error  # a ring
    assert shortage(error, "matches")


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("out of resource: shared memory, Required: 262144"),
        RuntimeError("CUDA error: device-side assert triggered"),
        ValueError("out of memory"),  # words of a user's file, say
        OSError(errno.ENOSPC, "No space left on device"),
        KeyError("CUDA out of memory"),
    ],
    ids=repr,
)
def test_other_errors_stay_defects(error):
    assert shortage(error, "flow") is None


def test_every_rule_with_a_job_has_a_cure_whose_keys_exist():
    page = (ROOT / "docs/config.md").read_text()
    page += "".join(f"`pips.{kind}.{key}`" for kind in ("train", "finetune") for key in PipsTrainOptions.model_fields)
    trivial = {"all", "pips_index", "pips_clips", "pips_export", "pips_test"}
    assert {name for text in texts().values() for _, name, _ in rules(text)} - trivial == set(LOWER)
    for rule, cure in LOWER.items():
        for key in re.findall(r"\b[a-z]\w*(?:\.[a-z]\w*)+", cure):
            assert f"`{key}`" in page, f"{rule}: {key}"
    for key in ("jobs.memory", "jobs.per_gpu"):
        assert f"`{key}`" in page


def test_a_rule_without_options_gets_a_sentence_too():
    assert shortage(MemoryError(), "pips_index").sentence() == (
        "the machine, or what the job may use of it, has not enough memory for pips_index; "
        "raise jobs.memory on a cluster."
    )


def test_nothing_heavy_is_imported_for_it():
    code = "import sys, everypoint.stages.memory; print([x for x in ('torch', 'numpy', 'cv2') if x in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
