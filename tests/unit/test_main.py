"""The command line: discovery of commands, exit codes, quick start."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

import pytest

import everypoint
from everypoint import __main__ as main_module
from everypoint.errors import InputError
from tests.shared import ROOT

HEAVY = ("torch", "torchvision", "timm", "cv2", "matplotlib", "scipy", "pandas", "snakemake", "tensorboard", "jinja2")


@pytest.fixture
def command(monkeypatch):
    """Replace the commands of all rooms by one, ``go``, that does what the test says."""

    def install(run):
        def parser():
            root = argparse.ArgumentParser(prog="everypoint")
            root.add_subparsers(required=True).add_parser("go").set_defaults(run=run)
            return root

        monkeypatch.setattr(main_module, "parser", parser)

    return install


def fail(error):
    def run(_arguments):
        raise error

    return run


@pytest.mark.parametrize(("result", "code"), [(None, 0), (0, 0), (3, 3)])
def test_exit_code_is_the_commands(command, result, code):
    command(lambda _arguments: result)
    assert main_module.main(["go"]) == code


def test_expected_failure_is_one_line_and_1(command, capsys):
    command(fail(InputError("a.mp4 cannot be read", "it is empty", "remove it")))
    assert main_module.main(["go"]) == 1
    shown = capsys.readouterr()
    assert shown.err == "everypoint: a.mp4 cannot be read: it is empty; remove it.\n"
    assert shown.out == ""


def test_interrupt_is_130(command, capsys):
    command(fail(KeyboardInterrupt()))
    assert main_module.main(["go"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_defect_keeps_its_traceback(command):
    command(fail(ZeroDivisionError("ours")))
    with pytest.raises(ZeroDivisionError, match="ours"):
        main_module.main(["go"])


def test_wrong_usage_is_2(capsys):
    with pytest.raises(SystemExit) as caught:
        main_module.main(["no-such-command"])
    assert caught.value.code == 2
    assert "no-such-command" in capsys.readouterr().err


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_version_and_reader_that_leaves():
    done = subprocess.run([sys.executable, "-m", "everypoint", "--version"], cwd=ROOT, capture_output=True, check=False)
    assert done.stdout.decode() == f"everypoint {everypoint.__version__}\n"
    code = (
        "import os, sys; from everypoint import __main__ as m; import argparse\n"
        "root = argparse.ArgumentParser(); sub = root.add_subparsers()\n"
        "sub.add_parser('go').set_defaults(run=lambda a: print('x' * 100_000))\n"
        "m.parser = lambda: root\n"
        "reader, writer = os.pipe(); os.dup2(writer, 1); os.close(writer); os.close(reader)\n"
        "sys.exit(m.main(['go']))"
    )
    left = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (left.returncode, left.stderr) == (0, "")


def test_every_room_with_commands_is_found():
    have = {path.parent.name for path in (ROOT / "everypoint").glob("*/cli.py")}
    assert have <= set(main_module.ROOMS)


def test_help_and_every_package_import_without_heavy_modules():
    """A start that imports torch takes seconds; help, and packages by themselves, must not."""
    packages = [f"everypoint.{path.parent.name}" for path in (ROOT / "everypoint").glob("*/__init__.py")]
    code = (
        f"import importlib, json, sys\nfor name in {packages!r}: importlib.import_module(name)\n"
        "from everypoint.__main__ import parser\nparser()\nprint(json.dumps(sorted(sys.modules)))"
    )
    loaded = set(json.loads(run_python(code)))
    assert sorted(loaded & set(HEAVY)) == []
