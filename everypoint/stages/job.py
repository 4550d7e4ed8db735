"""What every job does around its stage: the log, one sentence on failure, and a record of it for the report."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from everypoint import __version__
from everypoint.artifacts import atomic
from everypoint.errors import EXIT_INTERRUPTED, EXIT_TRY_AGAIN, EverypointError
from everypoint.stages import devices, memory, slurm
from everypoint.stages.locks import take, wait_for

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
    made = [Path(str(path)) for path in snakemake.output]
    with _alone(log, name, _fingerprint(snakemake)) as waited:
        _start(log, name, dict(snakemake.config.get("runtime", {})))
        if waited and all(path.exists() for path in made):
            logger.info("done by the process that this one has waited for")
            return
        _call(stage, arguments, log, name, snakemake.rule)
        logger.info("done")


def several(snakemake: Any, name: str) -> list[str]:
    """The files of an input that may be absent, one file or many."""
    found = snakemake.input.get(name, [])
    return [found] if isinstance(found, str) else list(found)


def _call(stage: Callable[..., None], arguments: dict[str, Any], log: Path, name: str, rule: str) -> None:
    """The stage itself; ends the process when it fails."""
    try:
        with slurm.back_into_the_queue():
            stage(**arguments)
    except KeyboardInterrupt:
        logger.warning("interrupted")
        sys.exit(EXIT_INTERRUPTED)
    except EverypointError as error:
        _expected(error, error, log, name, rule)
    except Exception as error:  # the last stop of a job: a defect is logged in full and told in one line
        short = memory.shortage(error, rule)
        if short is not None:
            _expected(short, error, log, name, rule)
        logger.exception("a defect of everypoint, please report it with this log")
        _fail(log, name, rule, f"a defect of everypoint ({type(error).__name__}: {_one_line(error)}).")


def _expected(told: EverypointError, raised: Exception, log: Path, name: str, rule: str) -> NoReturn:
    """End with what a user can do something about; where it came from is in the log only."""
    logger.error("%s", told)
    logger.debug("where it was raised", exc_info=raised)
    _fail(log, name, rule, str(told))


def _start(log: Path, name: str, runtime: dict[str, Any]) -> None:
    """Open the log, forget the last failure, and apply what the job needs but does not depend on."""
    handler = logging.FileHandler(log, mode="w", encoding="utf-8")
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


@contextlib.contextmanager
def _alone(log: Path, name: str, fingerprint: str) -> Iterator[bool]:
    """Be the only process at work on this stage; ends the process when there is another one.

    When Snakemake alone is killed, its jobs live on; started again it would put a second writer beside the first. Under
    SLURM, where to be tried again costs a turn in the queue, this process waits for the other one, and the value is
    whether that one did the same. The lock is no log: Snakemake removes logs, open or not, before it starts a job.
    """
    path = log.with_name(f".{log.stem}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    file, waited = take(path), False
    if file is None:
        sentence = f"another process is still at work on this, see {log}"
        if not slurm.is_job():
            print(f"\n{name}: {sentence}; wait for it or stop it, then run again.", file=sys.stderr)  # noqa: T201 - as in _fail
            sys.exit(EXIT_TRY_AGAIN)
        print(f"\n{name}: {sentence}; waiting for it.", file=sys.stderr, flush=True)  # noqa: T201
        waited = path.exists() and path.read_text() == fingerprint
        file = wait_for(path)
    try:
        os.truncate(file, 0)
        os.pwrite(file, fingerprint.encode(), 0)
        yield waited
    finally:
        path.unlink(missing_ok=True)
        os.close(file)


def _fingerprint(snakemake: Any) -> str:
    """Of what a job makes and from what: its parameters, and path, size and time of each input."""
    inputs = [(str(path), os.stat(path).st_size, os.stat(path).st_mtime_ns) for path in snakemake.input]
    return hashlib.sha256(repr([list(snakemake.params.items()), inputs]).encode()).hexdigest()


def _fail(log: Path, name: str, rule: str, sentence: str) -> NoReturn:
    atomic.write_json(record_path(log), {"rule": rule, "sentence": sentence, "log": str(log)})
    print(f"\n{name}: {sentence} (log: {log})", file=sys.stderr)  # noqa: T201 - the one line for the terminal
    sys.exit(1)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
