"""Which presets ``everypoint run`` takes when nobody names any, by a stand-in for nvidia-smi."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from everypoint.__main__ import main
from everypoint.stages import cli, devices

ON_GPU, ON_CPU = ["chain-multi", "fast"], ["chain-multi", "cpu"]
LISTED = "GPU {number}: NVIDIA H200 (UUID: GPU-{number})"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A working directory, and a function that puts so many GPUs into this machine; workflows are noted, not run."""
    for name in (devices.ALLOCATION, devices.RANK, devices.VISIBLE, devices.STAND_INS):
        monkeypatch.delenv(name, raising=False)
    started = []

    def snakemake(file, **options):
        started.append((file, yaml.safe_load(file.read_text()), options))
        return 0

    monkeypatch.setattr(cli, "snakemake", snakemake)
    here, programs = tmp_path / "here", tmp_path / "programs"
    (here / "videos").mkdir(parents=True)
    programs.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("PATH", str(programs))

    def put(gpus: int | None) -> list:
        program = programs / "nvidia-smi"
        program.unlink(missing_ok=True)
        if gpus is not None:
            lines = [LISTED.format(number=number) for number in range(gpus)] or ["No devices were found"]
            program.write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in lines))
            program.chmod(0o755)
        return started

    return put


def chosen(*arguments: str) -> dict:
    """Keys of the configuration that the command leaves for the workflow."""
    assert main(["run", "videos", *arguments]) == 0
    return yaml.safe_load(Path("results/config.yaml").read_text())


@pytest.mark.parametrize(
    ("gpus", "methods", "why"),
    [
        (1, ON_GPU, "There is a GPU here"),
        (8, ON_GPU, "There are 8 GPUs here"),
        (0, ON_CPU, "There is no GPU here"),
        (None, ON_CPU, "There is no GPU here"),
    ],
)
def test_the_machine_decides_and_one_line_says_so(machine, capsys, gpus, methods, why):
    started = machine(gpus)
    keys = chosen()
    assert keys["methods"] == methods
    assert capsys.readouterr().out == f"{why}: runs {' and '.join(methods)} (--methods names others)\n"
    assert started == [(Path("results/config.yaml"), keys, {"cores": None, "extra": ()})]


def test_a_dry_run_asks_the_same_and_writes_nothing(machine, capsys):
    """Nor over the configuration of the run before."""
    started = machine(1)
    assert main(["run", "videos", "-n"]) == 0
    assert not Path("results").exists()
    before = chosen("--methods", "chain")
    assert main(["run", "videos", "--dry-run", "--cores", "3"]) == 0
    assert yaml.safe_load(Path("results/config.yaml").read_text()) == before
    (dry, keys, options), _, (_, _, three) = started
    assert not dry.exists()
    assert keys == {"videos": "videos", "methods": ON_GPU}
    assert (options, three) == ({"cores": None, "extra": ("--dry-run",)}, {"cores": 3, "extra": ("--dry-run",)})


def refused(capsys, *arguments: str) -> str:
    assert main(["run", "videos", *arguments]) == 1
    return capsys.readouterr().err


def test_mistakes_are_told_of_the_file_or_of_the_command_line(machine, capsys):
    started = machine(None)
    Path("bad.yaml").write_text("fraems: 3\n")
    assert refused(capsys, "--config", "bad.yaml", "--methods", "chain").startswith(
        "everypoint: bad.yaml: unknown key 'fraems'"
    )
    Path("good.yaml").write_text("seed: 3\n")
    told = refused(capsys, "--config", "good.yaml", "--methods", "chan")
    assert told == "everypoint: the command line: unknown preset 'chan', did you mean 'chain'.\n"
    assert "the command line: results is ''" in refused(capsys, "--config", "good.yaml", "--results", "")
    Path("workflow_config.yaml").write_text("seed: -1\n")
    assert refused(capsys).startswith("everypoint: workflow_config.yaml: seed is -1")
    assert started == []


@pytest.mark.parametrize("cores", ["0", "-2", "two", "1.5", ""])
@pytest.mark.parametrize("command", [["run", "videos"], ["demo"]])
def test_cores_are_one_or_more(machine, capsys, command, cores):
    with pytest.raises(SystemExit) as end:
        main([*command, f"--cores={cores}"])
    assert end.value.code == 2
    assert f"argument --cores: '{cores}' is no number of cores from 1 on" in capsys.readouterr().err


def test_results_of_the_home_folder(machine, tmp_path, monkeypatch):
    started = machine(None)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert main(["run", "videos", "--results", "~/out"]) == 0
    assert started[0][0] == tmp_path / "home" / "out" / "config.yaml"


@pytest.mark.parametrize(
    ("environment", "arguments", "methods"),
    [
        ({devices.VISIBLE: ""}, (), ON_CPU),
        ({devices.VISIBLE: "-1"}, (), ON_CPU),
        ({devices.VISIBLE: "0"}, (), ON_GPU),
        ({devices.ALLOCATION: "17"}, (), ON_CPU),  # the scheduler gave none, whatever the node has
        ({}, ("--device", "cpu"), ON_CPU),
        ({}, ("--device", "auto"), ON_GPU),
        ({devices.VISIBLE: ""}, ("--device", "cuda"), ON_GPU),
    ],
)
def test_what_the_user_says_of_devices_counts(machine, monkeypatch, environment, arguments, methods):
    machine(2)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = chosen(*arguments)
    assert found["methods"] == methods
    asked = arguments[1] if arguments else "auto"
    assert found.get("device", "auto") == ("cpu" if methods == ON_CPU else asked)  # no job then waits for a GPU


@pytest.mark.parametrize(
    ("arguments", "file", "methods"),
    [
        (("--methods", "chain"), None, ["chain"]),
        (("--config", "mine.yaml"), "mine.yaml", None),
        ((), "workflow_config.yaml", None),
        (("--methods", "chain"), "workflow_config.yaml", ["chain"]),
    ],
)
def test_where_somebody_has_chosen_the_machine_is_not_asked(machine, capsys, arguments, file, methods):
    machine(1)
    if file:
        Path(file).write_text("seed: 3\n")
    found = chosen(*arguments)
    assert found.get("methods") == methods
    assert found.get("seed") == (3 if file else None)
    assert capsys.readouterr().out == ""


def test_the_choice_is_kept_for_every_other_machine(machine):
    """The file of the first run, on a machine without a GPU."""
    machine(1)
    chosen()
    machine(None)
    os.replace("results/config.yaml", "first.yaml")
    assert chosen("--config", "first.yaml")["methods"] == ON_GPU


def test_a_plan_never_asks_the_machine(machine, monkeypatch):
    """Jobs on nodes without a GPU make the plan again."""
    from everypoint.stages.plan import make_plan

    machine(1)
    (Path("videos") / "clip").mkdir()
    cv2.imwrite("videos/clip/0.png", np.zeros((32, 32, 3), np.uint8))
    monkeypatch.setattr(devices, "present", lambda: pytest.fail("the machine was asked"))
    plan = make_plan({"videos": "videos"}, "the test")
    assert (list(plan.entries), list(plan.presets)) == (["clip"], ON_CPU)


# -------------------------------------------------------------------------------------------------- Ctrl-C

# Ends its jobs first, as Snakemake does, and takes longer than the quarter of a second that subprocess.run grants.
ENDING = """
import os, signal, sys, time
def end(*_):
    time.sleep(0.6)
    open("ended", "w").close()
    sys.exit({code})
signal.signal(signal.SIGINT, end)
os.kill(os.getppid(), signal.SIGINT)  # a terminal sends it to both
os.kill(os.getpid(), signal.SIGINT)
signal.pause()
"""


@pytest.mark.parametrize(("code", "shown"), [(1, 130), (0, 0)])
def test_ctrl_c_waits_until_snakemake_has_ended(tmp_path, monkeypatch, capsys, code, shown):
    monkeypatch.chdir(tmp_path)
    real = subprocess.Popen
    program = [sys.executable, "-c", ENDING.format(code=code)]
    monkeypatch.setattr(cli.subprocess, "Popen", lambda command, **options: real(program, **options))
    before = signal.getsignal(signal.SIGINT)
    Path("my.yaml").write_text("seed: 3\n")
    assert main(["run", "videos", "--config", "my.yaml"]) == shown
    assert Path("ended").exists()
    assert capsys.readouterr().err == ("everypoint: interrupted\n" if shown else "")
    assert signal.getsignal(signal.SIGINT) is before
