"""A job under SLURM: where it runs, and how it gets back into the queue when a more urgent one takes its node.

Before it takes a node away, SLURM sends SIGTERM and waits for a while. A job that ends within that while counts as
failed, although nothing was wrong with it, and would use up one of its tries. So it asks for its place in the queue
itself; the driver sees it pending again under the same number.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator

from everypoint.errors import EXIT_TRY_AGAIN

JOB_ID = "SLURM_JOB_ID"
LIMIT = 30  # s for an answer of SLURM: longer than it takes, shorter than what is left to a job

logger = logging.getLogger(__name__)


def is_job() -> bool:
    """Whether this process belongs to a job of SLURM."""
    return JOB_ID in os.environ


def describe() -> str:
    """Node, number and devices of the job, for its log; empty elsewhere."""
    if not is_job():
        return ""
    devices = os.environ.get("CUDA_VISIBLE_DEVICES", "none")
    return f"SLURM job {os.environ[JOB_ID]} on {os.environ.get('SLURMD_NODENAME', os.uname().nodename)}, GPUs {devices}"


@contextlib.contextmanager
def back_into_the_queue() -> Iterator[None]:
    """Under SLURM let SIGTERM end the body with ``EXIT_TRY_AGAIN``, and a preempted job wait for its next turn.

    A body with a handler of its own (an optimisation that saves first) ends with the same code.
    """
    if not is_job():
        yield
        return
    before, process = signal.getsignal(signal.SIGTERM), os.getpid()

    def end(number: int, _: object) -> None:
        if os.getpid() != process:  # a worker that was forked from here: as if there were no handler
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        sys.exit(EXIT_TRY_AGAIN)

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    except SystemExit as stop:
        if stop.code == EXIT_TRY_AGAIN:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the next one comes from our own request
            requeue_if_preempted()
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def requeue_if_preempted() -> bool:
    """Put this job back into the queue when it is being preempted; not when somebody cancelled it."""
    number = os.environ[JOB_ID]
    said = _scontrol("show", "job", number)
    if not re.search(r"\bJobState=RUNNING\b", said) or not re.search(r"\bPreemptTime=\d", said):
        logger.warning("told to stop; the next try goes on from what is finished")
        return False
    logger.warning("preempted: job %s goes back into the queue and goes on from what is finished", number)
    _scontrol("requeue", number)
    return True


def _scontrol(*arguments: str) -> str:
    """What ``scontrol`` answers; empty when it is not there or does not answer."""
    try:
        done = subprocess.run(["scontrol", *arguments], capture_output=True, text=True, timeout=LIMIT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        logger.warning("SLURM does not answer: %s", error)
        return ""
    if done.returncode:
        logger.warning("scontrol %s: %s", " ".join(arguments), done.stderr.strip())
    return done.stdout
