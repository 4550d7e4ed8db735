"""Which GPU a job has to itself, on a machine where no scheduler says so.

``snakemake --resources gpu=N`` runs N GPU jobs at once. Each takes the lock of one device for as long as its process
lives and sees that device alone; where ``jobs.per_gpu`` says so, several have one together. The lock is the operating
system's, so a job that crashes frees its device at once. In an allocation of SLURM with several GPUs each job
takes one of these; of one GPU there is nothing to take.
"""

from __future__ import annotations

import functools
import logging
import os
import subprocess
import tempfile
import time
from pathlib import Path

from everypoint.errors import ResourceError
from everypoint.stages.locks import take, wait_for

VISIBLE = "CUDA_VISIBLE_DEVICES"
STAND_INS = "EVERYPOINT_DEVICES"  # devices by name, instead of those that are found; for tests
ALLOCATION = "SLURM_JOB_ID"  # a scheduler has given devices to this process, and perhaps to others beside it
RANK = "LOCAL_RANK"  # of several processes of one job: each knows its device
DRIVERS = "/dev/nvidiactl", "/dev/kfd", "/dev/dxg"  # of NVIDIA, AMD, and Windows underneath
WAIT = 0.5  # s between looks at devices that are all taken

logger = logging.getLogger(__name__)
_held: list[int] = []  # locks of this process, open files: closed, and free, when it ends
_sharers = 1  # jobs that may have one device at once


def share(jobs: int) -> None:
    """Let this many jobs have one GPU at once, where each alone does not fill it; for jobs of this process's claims."""
    global _sharers  # a fact of the process, as the locks are
    _sharers = max(1, jobs)


def claim(count: int = 1) -> list[str]:
    """Take ``count`` devices for this process and make them the only ones that CUDA shows it; waits for free ones.

    One device may be shared (:func:`share`): this process then has one of its places, on the device with the most free
    ones. Several devices are taken whole. Nothing happens, and the answer is empty, where there is no GPU or where a
    scheduler has given no more of them than that. A process that has claimed devices keeps them.

    Raises :class:`ResourceError` when the machine has fewer devices than that.
    """
    if _held or os.environ.get(RANK):
        return []
    names = present()
    if not names or (os.environ.get(ALLOCATION) and len(names) <= count):
        return []
    if count > len(names):
        raise ResourceError(f"{count} GPUs are asked for and this machine shows {len(names)}", cure="ask for fewer")
    taken = _take(names, count)
    os.environ[VISIBLE] = ",".join(taken)
    logger.info("on GPU %s", ", ".join(taken))
    return taken


def present() -> list[str]:
    """Names of the devices that this process may use, as CUDA_VISIBLE_DEVICES has them.

    In an allocation that says nothing of devices there are none: those of the machine may have been given to others.
    """
    for variable in (STAND_INS, VISIBLE):
        if variable in os.environ:
            return [name for name in os.environ[variable].split(",") if name.strip() and name.strip() != "-1"]
    if os.environ.get(ALLOCATION):
        return []
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [str(number) for number, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU ")]


@functools.cache
def likely() -> bool:
    """Whether this machine may have a GPU, of whatever kind: better once too often yes than once too often no."""
    if STAND_INS in os.environ or VISIBLE in os.environ:
        return bool(present())
    return bool(present()) or any(path.exists() for path in map(Path, DRIVERS))


def _take(names: list[str], count: int) -> list[str]:
    """Lock ``count`` of the devices; waits with none in hand, so that two never wait for each other."""
    said = False
    while True:
        looking = wait_for(_locks() / "looking.lock")  # else two that look at once each see the other's places as taken
        places = {name: _places(name) for name in names}  # all that are free are locked for a moment
        wanted = 1 if count == 1 else _sharers
        free = sorted((name for name in names if len(places[name]) >= wanted), key=lambda name: -len(places[name]))
        chosen = free[:count] if len(free) >= count else []
        for name, locks in places.items():
            kept = locks[:wanted] if name in chosen else []
            _held.extend(kept)
            for lock in locks[len(kept) :]:
                os.close(lock)
        os.close(looking)
        if chosen:
            return chosen
        if not said:
            logger.info("all GPUs are taken, waiting for one")
            said = True
        time.sleep(WAIT)


def _locks() -> Path:
    """The folder of the lock files of this user and allocation."""
    allocation = os.environ.get(ALLOCATION, "")  # each counts its devices from 0
    folder = Path(tempfile.gettempdir()) / "-".join(["everypoint-gpus", str(os.getuid()), *filter(None, [allocation])])
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _places(name: str) -> list[int]:
    """Open, locked files of the free places of a device."""
    stem = name.strip().replace("/", "_")
    files = [_locks() / (f"{stem}.lock" if place == 0 else f"{stem}.{place}.lock") for place in range(_sharers)]
    return [lock for lock in map(take, files) if lock is not None]
