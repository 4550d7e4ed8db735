"""Runs of the real Snakefile, with the profile that users have, on a real SLURM of this machine alone."""

from __future__ import annotations

import contextlib
import copy
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.slurm.cluster import ETC, FILES, Cluster, absent, commands
from tests.workflow.conftest import ROOT, STARTED, TINY, WILDCARDS, Run, Workflow, add_scene, kill, sha256

VIDEOS = ("alpha", "beta", "gamma")
STEPS = 1500  # some ten seconds: long enough to be caught at work
SUBMITTED = re.compile(r"^Job (\d+) has been submitted with SLURM jobid (\d+)", re.MULTILINE)
PARTITIONS = "partitions: {spare: {max_gpu: 8}}\n"  # every job where a more urgent one may take the node


def pytest_collection_modifyitems(config, items):
    """These run only where they are asked for by name: they take minutes and start daemons."""
    if not any("slurm" in word for word in (*config.args, config.option.markexpr)):
        items[:] = [item for item in items if item.get_closest_marker("slurm") is None]


class SlurmWorkflow(Workflow):
    """A folder whose jobs go through sbatch, as ``snakemake --workflow-profile slurm`` sends them."""

    cluster: Cluster
    driver: subprocess.Popen | None = None

    def submit(self, *extra: str) -> None:
        """Start the driver as a process group of its own."""
        start = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "--configfile", "my.yaml"]
        # the profile as it is; only the pauses that spare a large cluster's controller are shorter
        start += [
            "--workflow-profile",
            "slurm",
            "--slurm-init-seconds-before-status-checks",
            "2",
            "--latency-wait",
            "5",
        ]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        with open(self.folder / "output.txt", "wb") as file:
            self.driver = subprocess.Popen(
                [*start, *extra],
                cwd=self.folder,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=environment,
                # in the background of a script SIGINT is ignored, and so it would be by the driver
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

    def wait(self, seconds: float = 240) -> Run:
        """The end of the driver."""
        try:
            code = self.driver.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            pytest.fail(f"the driver did not end in {seconds} s\n{self.told()}\n{self.cluster.logs()}")
        return Run(code, self.output)

    def on_slurm(self, *extra: str) -> Run:
        """A whole run that has to succeed."""
        self.submit(*extra)
        return self.succeeded()

    def succeeded(self) -> Run:
        run = self.wait()
        assert run.code == 0, self.told()
        return run

    def signal(self, number: int) -> None:
        self.driver.send_signal(number)

    def kill(self) -> None:
        """kill -9 of the driver; its jobs live on."""
        kill(self.driver)

    @property
    def output(self) -> str:
        return (self.folder / "output.txt").read_text()

    def told(self) -> str:
        """All there is to read when something went wrong."""
        logs = sorted((self.folder / ".snakemake" / "slurm_logs").rglob("*.log"))
        return "\n".join([self.output, *(f"== {path}\n{path.read_text()}" for path in logs), self.logs()])

    # ---------------------------------------------------------------------------------------------- one job

    def submissions(self, job: str) -> list[str]:
        """SLURM's numbers of a job, as ``optimize alpha cpu``, one a try, first to last."""
        names: dict[str, str] = {}
        ids: dict[str, list[str]] = {}
        rule, number = "", ""
        for line in self.output.splitlines():
            if match := STARTED.match(line):
                rule = match[1]
            elif match := re.match(r"^    jobid: (\d+)$", line):
                number = match[1]
            elif match := WILDCARDS.match(line):
                names[number] = " ".join([rule, *(part.split("=")[1] for part in match[1].split(", "))])
            elif match := SUBMITTED.match(line):
                ids.setdefault(match[1], []).append(match[2])
        return [found for number, tries in ids.items() if names.get(number) == job for found in tries]

    def job(self, name: str, tries: int = 1) -> str:
        """SLURM's number of the ``tries``-th try of a job, as soon as there is one."""
        self.until(lambda: len(self.submissions(name)) >= tries, f"{name} to be submitted")
        return self.submissions(name)[tries - 1]

    def until(self, condition: Callable[[], object], what: str, seconds: float = 120) -> None:
        """Wait, as long as the driver lives."""
        try:
            self.cluster.wait(lambda: condition() or self.driver.poll() is not None, seconds, what)
        except TimeoutError as error:
            pytest.fail(f"{error}\n{self.told()}")
        assert condition(), f"the driver ended before {what}\n{self.told()}"

    def steps_saved(self, video: str) -> list[int]:
        """Steps of the checkpoints that lie there."""
        folder = self.results / video / "optimize" / "cpu" / "checkpoints"
        return sorted(int(path.stem.split("-")[1]) for path in folder.glob("checkpoint-*.json"))

    def is_optimising(self, video: str, after: int = 0) -> bool:
        """Whether an optimisation is at work and has saved something past a step."""
        return any(step > after for step in self.steps_saved(video))

    def resumed_after(self, video: str) -> int:
        """The step that the last try of an optimisation began with."""
        log = self.results / video / "logs" / "optimize.cpu.log"  # Snakemake removes it before each try
        with contextlib.suppress(FileNotFoundError):
            if found := re.search(r"resumed after step (\d+)", log.read_text()):
                return int(found[1])
        return 0

    def place(self, video: str, log: str) -> tuple[str, str, str]:
        """Number, node and GPUs of a job, as its log has them."""
        text = (self.results / video / "logs" / f"{log}.log").read_text()
        return re.search(r"SLURM job (\d+) on (\w+), GPUs ([\w,]+)", text).groups()

    def processes(self) -> list[str]:
        """Command lines of what still runs in or for this folder."""
        return [command for pid, command in commands() if str(self.folder) in command or _works_in(pid, self.folder)]


def _works_in(pid: int, folder: Path) -> bool:
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/{pid}/cwd").startswith(str(folder))
    return False


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """The one cluster of all these tests; when it is down, nothing of it is left."""
    reason = absent()
    if reason:
        pytest.skip(reason)
    found = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        found.start()
        yield found
    finally:
        found.stop()
    assert found.processes() == []
    assert not any((ETC / name).exists() for name in FILES)


@pytest.fixture(scope="session")
def workspace(cluster, tmp_path_factory):
    """A function that makes an empty :class:`SlurmWorkflow`, or one that goes on from a copy of another folder."""
    made: list[SlurmWorkflow] = []

    def make(source: Workflow | None = None, **config) -> SlurmWorkflow:
        folder = tmp_path_factory.mktemp("run")
        if source is not None:
            shutil.copytree(source.folder, folder, dirs_exist_ok=True)
        workflow = SlurmWorkflow(folder, **(source.config if source else config))
        workflow.cluster = cluster
        (folder / "spare.yaml").write_text(PARTITIONS)
        made.append(workflow)
        return workflow

    make.made = made
    yield make
    for workflow in made:
        if workflow.driver is not None and workflow.driver.poll() is None:
            workflow.kill()


def overrides(steps: int = STEPS, checkpoint_seconds: float = 1.0) -> dict:
    """Options of an optimisation of ``steps`` that saves every so many seconds."""
    changed = copy.deepcopy(TINY["overrides"])
    changed["cpu"]["optimize"] |= {"steps": steps, "checkpoint_seconds": checkpoint_seconds, "log_every": 50}
    return changed


@pytest.fixture(scope="session")
def prepared(workspace):
    """Three videos whose matches are made, here and without SLURM: what is left is the optimisation and after."""
    folder = workspace(methods=["cpu"], overrides=overrides())
    for name, scene in zip(VIDEOS, ("two_planes", "parallax", "occluder")):
        add_scene(folder.videos, name, scene, frames=4, truth=False)
    folder.finished("--until", "matches", "queries")
    return folder


@pytest.fixture(scope="session")
def expected(workspace, prepared):
    """The hashes of the tracks of a local run that nobody disturbs."""
    folder = workspace(prepared)
    folder.finished()
    return {video: sha256(folder.tracks(video, "cpu")) for video in VIDEOS}


@contextlib.contextmanager
def seconds() -> list[float]:
    """How long the body took; for the figures that the tests print."""
    start, taken = time.monotonic(), []
    yield taken
    taken.append(time.monotonic() - start)
