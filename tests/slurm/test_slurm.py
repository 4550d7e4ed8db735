"""What a real cluster does to a run: GPUs, the same bytes as a local run, and every way to be interrupted."""

from __future__ import annotations

import os
import signal
from collections import Counter

import pytest

from tests.slurm.cluster import GPUS, NODES, commands, descendants
from tests.slurm.conftest import VIDEOS
from tests.workflow.conftest import add_scene, sha256

pytestmark = pytest.mark.slurm


# ------------------------------------------------------------------------------------- three videos, with GPUs


@pytest.fixture(scope="module")
def three(workspace):
    """Three videos through chain with ``device: auto``, and the same on this machine alone."""
    folder, local = workspace(methods=["chain"]), workspace(methods=["chain"])
    for name in VIDEOS:
        add_scene(folder.videos, name, frames=4, truth=name == "alpha")
        add_scene(local.videos, name, frames=4, truth=name == "alpha")
    local.finished()
    folder.first = folder.on_slurm()
    folder.local = local
    return folder


def test_every_stage_runs_once(three):
    rules = Counter(three.first.rules)
    assert rules == {"frames": 3, "queries": 3, "flow": 3, "tracks": 3, "evaluate": 1, "report": 1}
    assert all(len(three.submissions(f"tracks {video} chain")) == 1 for video in VIDEOS)


def test_the_bytes_are_those_of_a_local_run(three):
    for video in VIDEOS:
        assert sha256(three.tracks(video)) == sha256(three.local.tracks(video))


def test_stages_that_compute_on_gpus_ask_for_one_and_the_others_do_not(three):
    def asked(job):
        (number,) = three.submissions(job)
        shown = three.cluster.call("scontrol", "show", "job", number)
        return "gres:gpu:1" in shown, "Partition=gpu" in shown

    assert asked("frames alpha") == (False, False)
    assert asked("tracks alpha chain") == (True, True)


def test_concurrent_jobs_see_different_gpus(three):
    """The flows of three videos start together on two nodes: at least two of them share one."""
    (log,) = {path.stem for path in (three.results / "alpha" / "logs").glob("flow.*.log")}
    places = [three.place(video, log) for video in VIDEOS]
    assert {gpus for _, _, gpus in places} <= {str(number) for number in range(GPUS)}, places
    assert len({(node, gpus) for _, node, gpus in places}) == 3, places
    assert len({node for _, node, _ in places}) < 3


def test_nothing_is_left_to_do(three):
    three.submit("-n")
    assert three.succeeded().jobs == []


# --------------------------------------------------------------------- one run, and what happens to its jobs


@pytest.fixture(scope="module")
def storm(workspace, prepared, expected):
    """Three optimisations that are cancelled, killed and sent back, and a video that cannot be read."""
    folder = workspace(prepared)
    folder.configure(**folder.config, device="cpu")
    (folder.videos / "text.mp4").write_text("this is a text file\n" * 50)
    folder.submit()
    folder.before = {}
    jobs = {video: folder.job(f"optimize {video} cpu") for video in VIDEOS}
    acts = {
        "alpha": lambda: folder.cluster.call("scancel", jobs["alpha"]),
        "beta": lambda: kill_script(folder, jobs["beta"]),
        "gamma": lambda: folder.cluster.call("scontrol", "requeue", jobs["gamma"]),
    }
    left = dict(acts)

    def strike() -> bool:
        for video in [video for video in left if folder.is_optimising(video)]:
            folder.before[video] = folder.steps_saved(video)[-1]
            left.pop(video)()
        return not left

    folder.until(strike, "the optimisations to be at work")
    folder.first = folder.wait()
    folder.tries = {job: folder.submissions(job) for job in sorted(set(folder.first.jobs))}
    return folder


def kill_script(folder, job: str) -> None:
    """kill -9 of what a job step runs: the stage itself, as the kernel does when memory is short."""
    os.kill(script_of(job), signal.SIGKILL)


def script_of(job: str) -> int:
    """The process of the stage that a job runs."""
    lines = dict(commands())
    (step,) = [pid for pid, command in lines.items() if command.startswith(f"slurmstepd: [{job}.0]")]
    (script,) = [pid for pid in descendants(step) if ".snakemake/scripts/" in lines.get(pid, "")]
    return script


@pytest.mark.parametrize("video", VIDEOS)
def test_the_tracks_are_those_of_an_undisturbed_run(storm, expected, video):
    assert sha256(storm.tracks(video, "cpu")) == expected[video], storm.told()


def test_only_the_disturbed_stage_is_done_again(storm):
    # gamma went back into the queue by itself: SLURM's second life of the same job
    jobs = Counter(storm.first.jobs)
    assert jobs["optimize alpha cpu"] == jobs["optimize beta cpu"] == 2, storm.told()
    assert jobs["optimize gamma cpu"] == 1
    others = {job: count for job, count in jobs.items() if not job.startswith("optimize") and "text" not in job}
    assert others == {f"tracks {video} cpu": 1 for video in VIDEOS}
    (number,) = storm.tries["optimize gamma cpu"]
    assert "Restarts=1" in storm.cluster.call("scontrol", "show", "job", number)


@pytest.mark.parametrize("video", ["alpha", "gamma"])
def test_a_job_that_is_told_to_stop_saves_first(storm, video):
    assert storm.resumed_after(video) > storm.before[video]


def test_a_job_that_is_killed_goes_on_from_its_last_checkpoint(storm):
    assert storm.resumed_after("beta") >= storm.before["beta"]


def test_a_job_that_always_fails_is_tried_three_times_and_stops_no_other(storm):
    assert storm.first.code == 1
    assert len(storm.tries["frames text"]) == 3, storm.told()  # and the profile's two retries
    assert "text, frames: " in storm.told()
    assert "text" in (storm.results / "report.html").read_text()


def test_on_the_cpu_nothing_asks_for_a_gpu(storm):
    for video in VIDEOS:
        (number,) = storm.tries[f"tracks {video} cpu"]
        shown = storm.cluster.call("scontrol", "show", "job", number)
        assert "gpu:" not in shown
        assert "Partition=cpu" in shown


def test_without_the_bad_video_only_the_report_is_missing(storm):
    (storm.videos / "text.mp4").unlink()
    assert storm.on_slurm().jobs == ["report"]


# ------------------------------------------------------------------------------------------ nodes and drivers


@pytest.fixture
def alone(workspace, prepared):
    """The first of the prepared videos."""
    folder = workspace(prepared)
    for video in VIDEOS[1:]:
        for path in (folder.videos / video).iterdir():
            path.unlink()
        (folder.videos / video).rmdir()
    return folder


def test_preempted_and_then_its_node_dies(alone, expected):
    """The job goes back into the queue both times, under the same number and without using up a try."""
    cluster = alone.cluster
    alone.submit("--slurm-partition-config", "spare.yaml")
    number = alone.job("optimize alpha cpu")

    def node() -> str:
        return cluster.call("squeue", "-h", "-j", number, "-o", "%N").strip()

    alone.until(lambda: alone.is_optimising("alpha"), "the optimisation to be at work")
    before = alone.steps_saved("alpha")[-1]
    cluster.call("sbatch", "-p", "urgent", "-w", node(), "--exclusive", "-o", "/dev/null", "--wrap", "sleep 1")
    alone.until(
        lambda: (step := alone.resumed_after("alpha")) and alone.is_optimising("alpha", step), "its second life"
    )
    assert alone.resumed_after("alpha") > before
    dead = node()
    cluster.kill_node(dead)
    try:
        run = alone.succeeded()
    finally:
        cluster.start_node(dead)
    assert run.jobs == ["optimize alpha cpu", "report", "tracks alpha cpu"]
    assert alone.submissions("optimize alpha cpu") == [number]
    assert "Restarts=2" in cluster.call("scontrol", "show", "job", number)
    assert sha256(alone.tracks("alpha", "cpu")) == expected["alpha"]
    cluster.wait(lambda: cluster.idle() == set(NODES), 60, "the node to come back")


def test_the_controller_is_away_for_a_while(alone, expected):
    """Jobs run on without it, and the driver asks until it is back."""
    cluster = alone.cluster
    alone.submit()
    number = alone.job("optimize alpha cpu")
    alone.until(lambda: alone.is_optimising("alpha"), "the optimisation to be at work")
    cluster.kill_controller()
    try:
        alone.until(lambda: "SLURM does not answer" in alone.output, "the driver to ask in vain")
    finally:
        cluster.start_controller()
    run = alone.succeeded()
    assert run.jobs == ["optimize alpha cpu", "report", "tracks alpha cpu"]
    assert alone.submissions("optimize alpha cpu") == [number]
    assert sha256(alone.tracks("alpha", "cpu")) == expected["alpha"]


def test_the_driver_dies_and_its_job_lives_on(alone, expected):
    """The same command again: the new job waits for the old one, so that there are never two writers."""
    alone.submit()
    old = alone.job("optimize alpha cpu")
    alone.until(lambda: alone.is_optimising("alpha"), "the optimisation to be at work")
    alone.kill()
    os.kill(script_of(old), signal.SIGSTOP)  # it shall not be done before the new one has begun
    alone.submit()
    new = alone.job("optimize alpha cpu")
    alone.until(lambda: "still at work on this" in alone.told(), "the new job to meet the old one")
    assert old in {job for job, *_ in alone.cluster.jobs("running")}
    os.kill(script_of(old), signal.SIGCONT)
    run = alone.succeeded()
    assert run.jobs == ["optimize alpha cpu", "report", "tracks alpha cpu"]
    assert alone.submissions("optimize alpha cpu") == [new]
    assert sha256(alone.tracks("alpha", "cpu")) == expected["alpha"]
    assert {state for job, state, *_ in alone.cluster.all_jobs() if job in (old, new)} == {"COMPLETED"}
    log = (alone.results / "alpha" / "logs" / "optimize.cpu.log").read_text()
    assert "done by the process that this one has waited for" in log


def test_interrupt_cancels_and_terminate_lets_finish(alone, expected):
    alone.submit()
    job = alone.job("optimize alpha cpu")
    alone.until(lambda: alone.is_optimising("alpha"), "the optimisation to be at work")
    before = alone.steps_saved("alpha")[-1]
    alone.signal(signal.SIGINT)
    assert alone.wait().code != 0
    alone.cluster.wait(lambda: job not in {found for found, *_ in alone.cluster.jobs()}, 60, "the job to end")
    assert alone.steps_saved("alpha")[-1] > before
    assert not alone.tracks("alpha", "cpu").exists()

    alone.submit()
    alone.until(lambda: alone.resumed_after("alpha") > before, "the optimisation to go on")
    alone.signal(signal.SIGTERM)
    run = alone.wait()
    assert run.code != 0
    assert run.jobs == ["optimize alpha cpu"]
    assert (alone.results / "alpha" / "optimize" / "cpu" / "model.pt").exists()

    assert alone.on_slurm().jobs == ["report", "tracks alpha cpu"]
    assert sha256(alone.tracks("alpha", "cpu")) == expected["alpha"]


def test_no_process_is_left_behind(workspace, cluster):
    cluster.wait(lambda: not cluster.jobs(), 60, "the last jobs to end")
    assert {folder.folder.name: found for folder in workspace.made if (found := folder.processes())} == {}
