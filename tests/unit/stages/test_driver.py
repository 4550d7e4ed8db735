"""Before the plan: which configuration is read, how its failures end, and that a run is alone in its folder."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from everypoint.stages import driver
from everypoint.stages.driver import check_yaml, default_config, hold_lock, plan_or_sentence


def test_failures_end_the_process_with_one_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        plan_or_sentence({"metods": []}, "c.yaml")
    assert end.value.code == "everypoint: c.yaml: unknown key 'metods', did you mean 'methods'."
    (tmp_path / "workflow_config.yaml").write_text("a: [")
    assert str(default_config("/checkout")) == "workflow_config.yaml"
    with pytest.raises(SystemExit, match=r"everypoint: workflow_config\.yaml line"):
        check_yaml([default_config("/checkout")])
    (tmp_path / "workflow_config.yaml").unlink()
    assert str(default_config("/checkout")) == "/checkout/workflow_config.yaml"


def test_a_second_run_is_refused_and_a_dead_one_is_forgotten(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(driver, "_held", [])
    lock = tmp_path / "deep" / "run.lock"
    code = (
        f"import os; from everypoint.stages.driver import hold_lock; hold_lock({str(lock)!r}); os.kill(os.getpid(), 9)"
    )
    root = str(Path(driver.__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == -9
    hold_lock(lock)  # kill -9 left the file, not the lock
    with pytest.raises(SystemExit, match="another run is at work in"):
        hold_lock(lock)
    fcntl.flock(driver._held[0], fcntl.LOCK_UN)
    hold_lock(lock)
