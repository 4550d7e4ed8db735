"""Which presets ``everypoint run`` takes when nobody names any, by a stand-in for nvidia-smi."""

from __future__ import annotations

import os
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
    monkeypatch.setattr(cli, "snakemake", lambda file, **options: started.append((Path(file), options)) or 0)
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
@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_the_machine_decides_and_one_line_says_so(machine, capsys, gpus, methods, why, dry):
    started = machine(gpus)
    assert chosen(*dry)["methods"] == methods
    assert capsys.readouterr().out == f"{why}: runs {' and '.join(methods)} (--methods names others)\n"
    assert started == [(Path("results/config.yaml"), {"cores": None, "extra": dry})]


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
