"""What every job does around its stage: the log, one sentence on failure, and a record of it for the report."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from everypoint import __version__
from everypoint.artifacts import atomic
from everypoint.errors import EverypointError

logger = logging.getLogger(__name__)


def record_path(log: str | os.PathLike[str]) -> Path:
    """Where a failure is noted, beside the job's log; absent when the last try did not fail."""
    return Path(log).with_suffix(".error.json")


def run(snakemake: Any, stage: Callable[..., None], **arguments: Any) -> None:
    """Call ``stage(**arguments)`` as the body of a Snakemake script.

    Everything that is logged goes to the rule's log. A failure ends there too, with its traceback when it is a defect;
    the terminal sees one sentence that names the log, and the process ends with code 1.
    """
    log = Path(str(snakemake.log[0]))
    name = f"{snakemake.wildcards.get('video', 'all videos')}, {snakemake.rule}"
    _start(log, name, dict(snakemake.config.get("runtime", {})))
    try:
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
    record_path(log).unlink(missing_ok=True)
    handler = logging.FileHandler(log, mode="w", encoding="utf-8")
    logging.basicConfig(
        level=logging.INFO, handlers=[handler], format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
    logger.setLevel(logging.DEBUG)
    logging.captureWarnings(True)
    logger.info("%s, everypoint %s, process %d", name, __version__, os.getpid())
    if runtime.get("assets"):
        os.environ["EVERYPOINT_ASSETS"] = str(runtime["assets"])


def _fail(log: Path, name: str, rule: str, sentence: str) -> None:
    atomic.write_json(record_path(log), {"rule": rule, "sentence": sentence, "log": str(log)})
    print(f"\n{name}: {sentence} (log: {log})", file=sys.stderr)  # noqa: T201 - the one line for the terminal
    sys.exit(1)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
