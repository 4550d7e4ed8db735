"""The commands of :mod:`tests.fakes.slurm`: ``python commands.py sbatch ...``."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FOLDER = Path(os.environ["FAKE_SLURM"])
LATE = 3.0  # s that a network file system keeps a result to itself
AGAIN = ("NODE_FAIL", "PREEMPTED")  # a requeued job lives on


@contextmanager
def alone() -> Iterator[None]:
    """One command at a time."""
    with open(FOLDER / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def fates() -> dict[str, Any]:
    return json.loads((FOLDER / "fates.json").read_text())


def job_file(number: int) -> Path:
    return FOLDER / f"job-{number:04d}.json"


def change(number: int, **values: Any) -> dict[str, Any]:
    """Change a job's entries; what they are now."""
    path = job_file(number)
    job = json.loads(path.read_text()) | values
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(job))
    partial.rename(path)
    return job


def option(arguments: list[str], *names: str) -> str:
    """The value of an option; empty without."""
    for name in names:
        for at, argument in enumerate(arguments):
            if argument == name:
                return arguments[at + 1]
            if argument.startswith(f"{name}="):
                return argument.removeprefix(f"{name}=")
    return ""


def sbatch(arguments: list[str]) -> int:
    with alone():
        number = len(list(FOLDER.glob("job-*.json"))) + 1
        name = option(arguments, "--comment")
        tries = sum(json.loads(path.read_text())["name"] == name for path in FOLDER.glob("job-*.json"))
        told = fates()["jobs"].get(name, [])
        fate = told[tries] if tries < len(told) else ""
        job = {"number": number, "name": name, "fate": fate, "state": "PENDING", "lives": [], "late": False}
        job |= {"minutes": int(option(arguments, "-t") or 0), "megabytes": int(option(arguments, "--mem") or 0)}
        job |= {"command": option(arguments, "--wrap"), "output": option(arguments, "--output")}
        job_file(number).write_text(json.dumps(job))
        if fate == "BUSY":
            change(number, state="REFUSED")
            sys.stderr.write("sbatch: error: Batch job submission failed: Socket timed out on send/recv\n")
            return 1
        if fate in ("", "LATE"):
            start(number)
        else:
            change(number, state=fate)
    sys.stdout.write(f"{number}\n")
    return 0


def start(number: int) -> None:
    """Let a job live, as a process that nobody waits for."""
    change(number, state="RUNNING")
    subprocess.Popen(
        [sys.executable, __file__, "live", str(number)],
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def live(arguments: list[str]) -> int:
    """One life of a job."""
    number = int(arguments[0])
    job = json.loads(job_file(number).read_text())
    began = time.time()
    output = Path(job["output"].replace("%j", str(number)))
    output.parent.mkdir(parents=True, exist_ok=True)
    with open(output, "ab") as file:
        environment = {**os.environ, "SLURM_JOB_ID": str(number)}
        code = subprocess.call(["sh", "-c", job["command"]], stdout=file, stderr=file, env=environment)
    video = job["name"].rpartition("_")[2]
    result, hidden = Path("results") / video / "frames", Path("results") / video / "frames.late"
    if job["fate"] == "LATE":
        result.rename(hidden)
    with alone():
        change(number, state="FAILED" if code else "COMPLETED", lives=[*job["lives"], [began, time.time()]])
    if job["fate"] == "LATE":
        while not json.loads(job_file(number).read_text())["late"]:  # until the driver knows that it is done
            time.sleep(0.05)
        time.sleep(LATE)
        hidden.rename(result)
    return code


def out_of_reach() -> bool:
    """Whether the controller does not answer this call; before the first job it is there."""
    with alone():
        if not job_file(1).exists():
            return False
        calls = FOLDER / "calls"
        count = int(calls.read_text()) if calls.exists() else 0
        calls.write_text(str(count + 1))
    if count < fates().get("unanswered", 0):
        sys.stderr.write("Unable to contact slurm controller (connect failure)\n")
        return True
    return False


def squeue(_: list[str]) -> int:
    if out_of_reach():
        return 1
    with alone():
        for path in sorted(FOLDER.glob("job-*.json")):
            job = json.loads(path.read_text())
            sys.stdout.write(f"{job['number']}|{job['state']}\n")
            if job["state"] in AGAIN:
                start(job["number"])
            elif job["state"] == "COMPLETED" and job["fate"] == "LATE":
                change(job["number"], late=True)
    return 0


def scontrol(_: list[str]) -> int:
    if out_of_reach():
        return 1
    sys.stdout.write("MinJobAge               = 300 sec\n")
    return 0


def sacct(_: list[str]) -> int:
    sys.stderr.write("Slurm accounting storage is disabled\n")
    return 1


def srun(arguments: list[str]) -> int:
    """The command is what follows the options."""
    at = next(at for at, argument in enumerate(arguments) if not argument.startswith("-"))
    os.execvp(arguments[at], arguments[at:])


def main() -> int:
    name, *arguments = sys.argv[1:]
    return globals()[name](arguments) if name in globals() else 0


if __name__ == "__main__":
    sys.exit(main())
