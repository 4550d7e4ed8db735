"""kill -9 of the whole workflow at any moment, then the same command again: the same tracks, nothing done twice."""

from __future__ import annotations

import contextlib
import random
import re
import subprocess
import time

import pytest

from tests.workflow.conftest import Workflow, add_scene, kill, sha256

FINISHED = re.compile(r"^Finished jobid: (\d+) \(Rule: (\w+)\)", re.MULTILINE)


def prepare(workspace) -> Workflow:
    folder = workspace(methods=["cpu"])
    add_scene(folder.videos, "scene", frames=6, truth=False)
    return folder


@pytest.fixture(scope="module")
def undisturbed(workspace):
    """The hash of the tracks of a run that nobody disturbs, and how long it took."""
    folder = prepare(workspace)
    start = time.monotonic()
    rules = folder.finished().rules
    assert rules == ["flow", "frames", "matches", "optimize", "queries", "report", "tracks"]
    return sha256(folder.tracks("scene", "cpu")), time.monotonic() - start


def run_and_kill(folder: Workflow, seconds: float) -> str:
    """Start the workflow, kill -9 its process group after a while, and return what it had printed."""
    printed = folder.folder / "killed.txt"
    process = folder.start(printed)
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        kill(process)
    return printed.read_text()


# Moments as a share of the undisturbed run: drawn once, one in each stretch of it.
MOMENTS = [round((k + random.Random(k).random()) / 7, 3) for k in range(7)]
QUICK = (MOMENTS[3],)  # and the one of test_a_killed_optimisation_goes_on; the others are slow


@pytest.mark.parametrize(
    "moment", [pytest.param(m, marks=() if m in QUICK else (pytest.mark.slow,), id=f"{m:.2f}") for m in MOMENTS]
)
def test_kill_and_run_again(workspace, undisturbed, moment):
    expected, seconds = undisturbed
    folder = prepare(workspace)
    before = {rule for _, rule in FINISHED.findall(run_and_kill(folder, moment * seconds))}
    again = folder.finished()
    assert sha256(folder.tracks("scene", "cpu")) == expected
    assert not before & set(again.rules), f"done again: {before & set(again.rules)}"
    assert folder.finished("-n").jobs == []


def test_a_killed_optimisation_goes_on(workspace, undisturbed):
    """Killed as soon as a checkpoint lies there, it goes on from that step and ends with the same bytes."""
    expected, _ = undisturbed
    folder = prepare(workspace)
    checkpoints = folder.results / "scene" / "optimize" / "cpu" / "checkpoints"
    process = folder.start(folder.folder / "killed.txt")
    while process.poll() is None and not list(checkpoints.glob("*.json")):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.02)
    kill(process)
    again = folder.finished()
    assert {"frames", "flow", "matches"}.isdisjoint(again.rules)
    assert sha256(folder.tracks("scene", "cpu")) == expected
