"""Write with every function of ``atomic`` under a file-size limit, which imitates a full disk; print what happened.

Run as ``python -m tests.unit.artifacts.filling FOLDER``. A process of its own, since the limit cannot be lifted again.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

import numpy as np
import torch

from everypoint.artifacts import atomic

LIMIT = 100_000
NOISE = np.random.default_rng(0).integers(0, 256, 1_000_000, dtype=np.uint8)  # nothing that compresses


def save_torch_by_path(path: Path) -> None:
    with atomic.atomic_path(path) as temporary:
        torch.save({"a": torch.from_numpy(NOISE), "b": torch.zeros(10)}, temporary)


def save_torch_by_file(path: Path) -> None:
    atomic.write_with(path, lambda file: torch.save({"a": torch.from_numpy(NOISE), "b": torch.zeros(10)}, file))


def save_mapped(path: Path) -> None:
    with atomic.mapped_npy(path) as allocate:
        allocate(NOISE.shape, np.uint8)[:] = NOISE


WRITERS = {
    "bytes": lambda path: atomic.write_bytes(path, NOISE.tobytes()),
    "text": lambda path: atomic.write_text(path, "x" * NOISE.size),
    "json": lambda path: atomic.write_json(path, NOISE.tolist()),
    "npy": lambda path: atomic.save_npy(path, NOISE),
    "npy-mapped": save_mapped,
    "npz": lambda path: atomic.save_npz(path, a=NOISE, b=NOISE),
    "npz-compressed": lambda path: atomic.save_npz(path, compressed=True, a=NOISE),
    "torch-path": save_torch_by_path,
    "torch-file": save_torch_by_file,
}


def outcome(write, path: Path) -> dict[str, object]:
    """What a user sees, and whether the former file stayed as it was."""
    path.write_text("old")
    kind, text = "no error", ""
    try:
        write(path)
    except Exception as error:  # noqa: BLE001  the test looks at the kind
        kind, text = type(error).__name__, str(error)
    return {"kind": kind, "text": text, "old": path.read_text(errors="replace")}


def main(folder: Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, LIMIT))
    sys.stdout.write(json.dumps({name: outcome(write, folder / name) for name, write in WRITERS.items()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
