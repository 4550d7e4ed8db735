"""A process that has imported Snakemake and forks a child for every call, which saves each the seconds of importing.

Read from stdin: one JSON object a line, ``{"argv", "cwd", "environment", "output"}``. Written to stdout: the exit code.
"""

from __future__ import annotations

import json
import os
import sys

from snakemake.cli import main


def child(call: dict) -> None:
    """Become the call; never returns."""
    code = 1
    try:
        os.chdir(call["cwd"])
        os.environ.clear()
        os.environ.update(call["environment"])
        target = os.open(call["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(target, 1)
        os.dup2(target, 2)
        sys.argv = ["snakemake", *call["argv"]]
        main(call["argv"])
        code = 0
    except SystemExit as end:  # as the interpreter would treat it
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            sys.stderr.write(end.code + "\n")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    for line in sys.stdin:
        process = os.fork()
        if process == 0:
            child(json.loads(line))
        _, status = os.waitpid(process, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)  # noqa: T201
