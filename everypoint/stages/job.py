"""What every job does around its stage: the log, one sentence on failure, and a record of it for the report."""

from __future__ import annotations

import fcntl
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from everypoint import __version__
from everypoint.artifacts import atomic
from everypoint.errors import EverypointError
from everypoint.stages import devices, slurm
from everypoint.stages.slurm import TRY_AGAIN

logger = logging.getLogger(__name__)


def record_path(log: str | os.PathLike[str]) -> Path:
    """Where a failure is noted, beside the job's log; absent when the last try did not fail."""
    return Path(log).with_suffix(".error.json")


def run(snakemake: Any, stage: Callable[..., None], **arguments: Any) -> None:
    """Call ``stage(**arguments)`` as the body of a Snakemake script.

    Everything that is logged goes to the rule's log. A failure ends there too, with its traceback when it is a defect;
    the terminal sees one sentence that names the log, and the process ends with code 1. A job that is told to stop ends
    with code 75, see :mod:`everypoint.stages.slurm`.
    """
    log = Path(str(snakemake.log[0]))
    name = f"{snakemake.wildcards.get('video', 'all videos')}, {snakemake.rule}"
    _start(log, name, dict(snakemake.config.get("runtime", {})))
    try:
        with slurm.back_into_the_queue():
            stage(**arguments)
    except EverypointError as error:
        logger.error("%s", error)
        logger.debug("where it was raised", exc_info=error)
        _fail(log, name, snakemake.rule, str(error))
    except Exception as error:  # the last stop of a job: a defect is logged in full and told in one line
        logger.exception("a defect of everypoint, please report it with this log")
        _fail(log, name, snakemake.rule, f"a defect of everypoint ({type(error).__name__}: {_one_line(error)}).")
    logger.info("done")


def _start(log: Path, name: str, runtime: dict[str, Any]) -> None:
    """Open the log, forget the last failure, and apply what the job needs but does not depend on."""
    log.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(log, mode="a", encoding="utf-8")
    _lock(handler.stream, log, name)
    logging.basicConfig(
        level=logging.INFO, handlers=[handler], format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
    logger.setLevel(logging.DEBUG)
    logging.captureWarnings(True)
    record_path(log).unlink(missing_ok=True)
    place = slurm.describe() or f"process {os.getpid()}"
    logger.info("%s, everypoint %s, %s", name, __version__, place)
    devices.share(int(runtime.get("per_gpu", 1)))
    if runtime.get("assets"):
        os.environ["EVERYPOINT_ASSETS"] = str(runtime["assets"])


def _lock(file: TextIO, log: Path, name: str) -> None:
    """Lock and empty the log for as long as this process lives; ends the process when another one holds it.

    When Snakemake alone is killed, its jobs live on; started again it would put a second writer beside the first. Under
    SLURM, where to be tried again costs a turn in the queue, this process waits for the other one.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sentence = f"another process is still at work on this, see {log}"
        if slurm.is_job():
            print(f"\n{name}: {sentence}; waiting for it.", file=sys.stderr, flush=True)  # noqa: T201 - as in _fail
            fcntl.flock(file, fcntl.LOCK_EX)
        else:
            print(f"\n{name}: {sentence}; wait for it or stop it, then run again.", file=sys.stderr)  # noqa: T201
            sys.exit(TRY_AGAIN)
    except OSError as error:  # a file system without locks
        logger.debug("no lock on %s: %s", log, error)
    file.truncate(0)


def _fail(log: Path, name: str, rule: str, sentence: str) -> None:
    atomic.write_json(record_path(log), {"rule": rule, "sentence": sentence, "log": str(log)})
    print(f"\n{name}: {sentence} (log: {log})", file=sys.stderr)  # noqa: T201 - the one line for the terminal
    sys.exit(1)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
