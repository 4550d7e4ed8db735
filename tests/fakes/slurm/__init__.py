"""A SLURM that is only its commands: what a cluster says when things go wrong, at will and without one.

:func:`install` writes ``sbatch``, ``squeue`` and the others into a folder for PATH. A job runs as a process of this
machine. What happens to which job is told beforehand, in ``fates.json`` of the state's folder::

    {"jobs": {"rule_frames_wildcards_alpha": ["TIMEOUT", "BUSY"]}, "unanswered": 3}

A job's fates are those of its tries, one after the other; a try without any runs to its end.

* ``TIMEOUT``, ``OUT_OF_MEMORY``: the job ends so, without having done anything.
* ``BUSY``: ``sbatch`` fails, as that of a busy controller does.
* ``NODE_FAIL``, ``PREEMPTED``: the job ends so, and is started again under its old number, as ``--requeue`` asks.
* ``LATE``: what the job wrote is not to be seen until some seconds after it has ended, as on a network file system.

``unanswered`` is how many calls of ``squeue`` and ``scontrol`` do not reach the controller, once there is a job. There
is no accounting. What was asked for, and when each life of a job began and ended, is kept in a file a job, which
:func:`history` reads.
"""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

COMMANDS = ("sbatch", "squeue", "sacct", "scontrol", "sinfo", "scancel", "srun")


def install(folder: Path, fates: dict[str, Any]) -> dict[str, str]:
    """Write the commands and the fates into an empty folder; the environment that makes programs find them."""
    (folder / "bin").mkdir(parents=True)
    (folder / "fates.json").write_text(json.dumps(fates))
    program = Path(__file__).with_name("commands.py")
    for name in COMMANDS:
        path = folder / "bin" / name
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{program}" {name} "$@"\n')
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return {"PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}", "FAKE_SLURM": str(folder)}


def history(folder: Path) -> list[dict[str, Any]]:
    """All submissions, first to last: name, arguments, state, and start and end of each life."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("job-*.json"))]
