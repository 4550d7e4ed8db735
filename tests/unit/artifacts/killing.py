"""Kill processes that write an npz and print as JSON what was left under its name each time.

``python -m tests.unit.artifacts.killing FOLDER atomic|naive KILLS`` kills at random moments a writer that writes over
and over; ``... atomic|naive calls`` kills before each call that one write makes. A process of its own, since it forks.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from types import FrameType

import numpy as np

from everypoint.artifacts import atomic

SIZE = {"values": 1 << 19}  # 4 MiB: a write takes long enough to be hit


def write_atomic(path: Path, generation: int) -> None:
    atomic.save_npz(path, first=np.full(SIZE["values"], generation), second=np.full(8, generation))


def write_naive(path: Path, generation: int) -> None:
    np.savez(path, first=np.full(SIZE["values"], generation), second=np.full(8, generation))


def write_for_ever(write: Callable[[Path, int], None], path: Path, ready: int) -> None:
    """Write generation after generation; tell through the pipe ``ready`` when the first one is complete."""
    for generation in count():
        write(path, generation)
        if generation == 0:
            os.write(ready, b"1")


def verdict(path: Path) -> str:
    """Whether the file is there, loads, and holds one generation only."""
    if not path.exists():
        return "absent"
    try:
        with np.load(path, allow_pickle=False) as file:
            values = {int(value) for name in ("first", "second") for value in np.unique(file[name])}
    except Exception:  # noqa: BLE001  whatever a damaged file raises
        return "corrupt"
    return "good" if len(values) == 1 else "mixed"


def kill_once(write: Callable[[Path, int], None], path: Path, delay: float) -> str:
    """Fork a writer, kill it ``delay`` seconds after its first complete write, and judge what is left."""
    reader, ready = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            write_for_ever(write, path, ready)
        finally:
            os._exit(1)
    os.close(ready)
    os.read(reader, 1)
    os.close(reader)
    time.sleep(delay)  # the random moment itself; nothing waits for anything
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return verdict(path)


def write_until_call(write: Callable[[Path, int], None], path: Path, last: int) -> None:
    """Write generation 1 and die right before the call number ``last`` that Python makes while it does so."""
    calls = count()

    def die_at(frame: FrameType, event: str, argument: object) -> None:
        if event in ("call", "c_call") and next(calls) == last:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(die_at)
    write(path, 1)
    sys.setprofile(None)


def kill_at_every_call(write: Callable[[Path, int], None], folder: Path) -> list[str]:
    """The verdicts of one killed write after the other, each over a good old file, until a write survives."""
    path, verdicts, survived = folder / "calls.npz", [], False
    write(path, 0)
    old = path.read_bytes()
    while not survived:
        path.write_bytes(old)
        child = os.fork()
        if child == 0:
            try:
                write_until_call(write, path, len(verdicts))
            finally:
                os._exit(0)
        survived = not os.WIFSIGNALED(os.waitpid(child, 0)[1])
        verdicts.append(verdict(path))
    return verdicts


def main(folder: Path, kind: str, kills: str) -> None:
    write = write_atomic if kind == "atomic" else write_naive
    if kills == "calls":
        SIZE["values"] = 64
        verdicts = kill_at_every_call(write, folder)
    else:
        draw = random.Random(0)
        delays = [draw.uniform(0, 0.04) for _ in range(int(kills))]
        verdicts = [kill_once(write, folder / f"{k}.npz", delay) for k, delay in enumerate(delays)]
    sys.stdout.write(json.dumps(verdicts))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
