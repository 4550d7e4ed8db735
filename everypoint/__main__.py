"""The command line: ``everypoint <command>`` or ``python -m everypoint <command>``.

Each room brings its commands in ``everypoint/<room>/cli.py`` through one function::

    def register(subparsers) -> None:
        parser = subparsers.add_parser("name", help="one sentence")
        parser.set_defaults(run=function)  # function(arguments: argparse.Namespace) -> int | None

A command's function imports what it needs when it runs, so that ``--help`` stays quick.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence

from everypoint import __version__
from everypoint.errors import EXIT_INTERRUPTED, EverypointError

ROOMS = ("assets", "config", "evaluate", "report", "scenes", "stages")  # in the order of the help page


def parser() -> argparse.ArgumentParser:
    """The parser with the commands of every room that has some."""
    root = argparse.ArgumentParser(prog="everypoint", description="Track every point in a folder of videos.")
    root.add_argument("--version", action="version", version=f"everypoint {__version__}")
    commands = root.add_subparsers(title="commands", metavar="<command>", required=True)
    for room in ROOMS:
        name = f"everypoint.{room}.cli"
        if importlib.util.find_spec(name) is not None:
            importlib.import_module(name).register(commands)
    return root


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code: 0, 1 for an expected failure, 2 for wrong usage, 130 for Ctrl-C."""
    options = parser().parse_args(arguments)
    try:
        code = options.run(options)
        sys.stdout.flush()  # a closed pipe shows here rather than at exit, where it could not be caught
    except EverypointError as error:
        print(f"everypoint: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("everypoint: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of our output left, as in `everypoint assets list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code or 0


if __name__ == "__main__":
    sys.exit(main())
