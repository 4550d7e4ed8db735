"""What a job does when SLURM tells it to stop; ``scontrol`` is a script that notes what it is asked."""

from __future__ import annotations

import os
import signal
import sys
import textwrap

import pytest

from everypoint.stages import slurm

PREEMPTED = """\
JobId=7 JobName=x
   JobState=RUNNING Reason=None
   PreemptEligibleTime=2026-01-01T00:00:00 PreemptTime=2026-01-01T00:01:00
"""
RUNNING = PREEMPTED.replace("PreemptTime=2026-01-01T00:01:00", "PreemptTime=None")
CANCELLED = PREEMPTED.replace("RUNNING", "CANCELLED")


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """A function that makes ``scontrol`` answer something and gives the list of what it was asked, to be called."""

    def answering(text: str, code: int = 0):
        program = tmp_path / "scontrol"
        program.write_text(
            textwrap.dedent(
                f"""\
                #!{sys.executable}
                import sys
                with open({str(tmp_path / "asked")!r}, "a") as file:
                    print(*sys.argv[1:], file=file)
                if sys.argv[1] == "show":
                    print({text!r})
                sys.exit({code})
                """
            )
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        monkeypatch.setenv(slurm.JOB_ID, "7")
        return lambda: (tmp_path / "asked").read_text().splitlines()

    return answering


def stopped() -> int:
    """The code that a stage ends with when SIGTERM comes."""
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as end, slurm.back_into_the_queue():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before
    return end.value.code


def test_a_preempted_job_goes_back_into_the_queue(asked):
    questions = asked(PREEMPTED)
    assert stopped() == slurm.EXIT_TRY_AGAIN
    assert questions() == ["show job 7", "requeue 7"]


@pytest.mark.parametrize("answer, code", [(RUNNING, 0), (CANCELLED, 0), ("", 1)])
def test_any_other_one_stays_where_it_is(asked, answer, code):
    questions = asked(answer, code)
    assert stopped() == slurm.EXIT_TRY_AGAIN
    assert questions() == ["show job 7"]


def test_a_stage_that_saves_first_ends_the_same_way(asked):
    questions = asked(PREEMPTED)
    with pytest.raises(SystemExit), slurm.back_into_the_queue():
        raise SystemExit(slurm.EXIT_TRY_AGAIN)
    assert questions() == ["show job 7", "requeue 7"]


def test_other_ends_ask_nothing(asked, tmp_path):
    asked(PREEMPTED)
    with pytest.raises(SystemExit), slurm.back_into_the_queue():
        raise SystemExit(1)
    with pytest.raises(ValueError, match="ours"), slurm.back_into_the_queue():
        raise ValueError("ours")
    assert not (tmp_path / "asked").exists()


def test_without_scontrol_it_just_ends(monkeypatch, tmp_path):
    monkeypatch.setenv(slurm.JOB_ID, "7")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert stopped() == slurm.EXIT_TRY_AGAIN


def test_outside_of_slurm_signals_are_left_alone(monkeypatch):
    monkeypatch.delenv(slurm.JOB_ID, raising=False)
    before = signal.getsignal(signal.SIGTERM)
    with slurm.back_into_the_queue():
        assert signal.getsignal(signal.SIGTERM) is before
    assert slurm.describe() == ""


def test_a_forked_worker_dies_of_the_signal(asked):
    asked(PREEMPTED)
    with slurm.back_into_the_queue():
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)
        _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGTERM


def test_the_log_says_where_a_job_ran(monkeypatch):
    monkeypatch.setenv(slurm.JOB_ID, "7")
    monkeypatch.setenv("SLURMD_NODENAME", "east")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert slurm.describe() == "SLURM job 7 on east, GPUs 1"
