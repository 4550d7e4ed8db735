"""GPUs of one machine, by stand-ins: each job has its own, one that dies frees it, schedulers are left alone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from everypoint.errors import ResourceError
from everypoint.stages import devices

HOLD = """
import sys
from everypoint.stages.devices import claim, share
share(int(sys.argv[2]))
print(*claim(int(sys.argv[1])), flush=True)
input()
"""


@pytest.fixture
def place(tmp_path, monkeypatch) -> dict[str, str]:
    """The environment of jobs on a machine with two devices, with locks of its own."""
    for name in (devices.ALLOCATION, devices.RANK, devices.VISIBLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(devices.tempfile, "tempdir", None)  # it remembers the folder of the first call
    monkeypatch.setenv(devices.STAND_INS, "0,1")
    monkeypatch.setattr(devices, "_held", [])
    yield dict(os.environ)
    devices.tempfile.tempdir = None
    os.environ.pop(devices.VISIBLE, None)


@contextmanager
def job(environment: dict[str, str], count: int = 1, sharers: int = 1) -> Iterator[subprocess.Popen]:
    """A process that claims devices, says which, and waits."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(count), str(sharers)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def said(process: subprocess.Popen) -> list[str]:
    """The devices that it has; returns when it has them."""
    return process.stdout.readline().split()


def test_jobs_side_by_side_have_different_devices_and_a_killed_one_frees_its(place):
    with job(place) as first, job(place) as second:
        assert {*said(first), *said(second)} == {"0", "1"}
        with job(place) as third:
            first_device = "0"
            holder = first if devices_of(first, place) == first_device else second
            holder.kill()
            holder.wait()
            assert len(said(third)) == 1  # it waited for this one


def devices_of(process: subprocess.Popen, place: dict[str, str]) -> str:
    """Which device a running job holds: the one whose lock file it has open."""
    folder = f"/proc/{process.pid}/fd"
    links = [os.readlink(os.path.join(folder, name)) for name in os.listdir(folder)]
    return next(os.path.basename(link).removesuffix(".lock") for link in links if link.endswith(".lock"))


def test_a_job_may_have_several(place):
    with job(place, 2) as process:
        assert said(process) == ["0", "1"]


def test_jobs_that_share_fill_the_devices_evenly(place):
    with job(place, 1, 2) as first, job(place, 1, 2) as second:
        assert {*said(first), *said(second)} == {"0", "1"}
        with job(place, 1, 2) as third, job(place, 1, 2) as fourth:
            assert {*said(third), *said(fourth)} == {"0", "1"}
            with job(place, 1, 2) as fifth:
                third.kill()
                third.wait()
                assert len(said(fifth)) == 1  # it waited for this place


def test_several_devices_are_not_shared(place):
    with job(place, 1, 2) as first:
        assert said(first) == ["0"]
        with job(place, 2, 2) as both:
            first.kill()
            first.wait()
            assert said(both) == ["0", "1"]


def test_a_claim_is_what_cuda_shows(place, monkeypatch):
    assert devices.claim() == ["0"]
    assert os.environ[devices.VISIBLE] == "0"
    assert devices.claim() == []  # it has one
    for lock in devices._held:
        os.close(lock)


def test_more_than_there_are_is_one_sentence(place):
    with pytest.raises(ResourceError, match="3 GPUs are asked for and this machine shows 2"):
        devices.claim(3)


def test_what_a_scheduler_gave_is_kept(place, monkeypatch):
    monkeypatch.setenv(devices.ALLOCATION, "17")
    monkeypatch.setenv(devices.STAND_INS, "0")
    assert devices.claim() == []
    monkeypatch.delenv(devices.STAND_INS)
    assert devices.claim() == []  # it gave none, whatever the machine has
    assert devices.VISIBLE not in os.environ


def test_jobs_inside_of_one_allocation_share_what_it_has(place):
    inside, elsewhere = place | {devices.ALLOCATION: "17"}, place | {devices.ALLOCATION: "18"}
    with job(inside) as first, job(inside) as second, job(elsewhere) as third:
        assert {*said(first), *said(second)} == {"0", "1"}
        assert said(third) == ["0"]  # another one's 0 is another device


def test_one_process_of_several_has_its_device(place, monkeypatch):
    monkeypatch.setenv(devices.RANK, "1")
    assert devices.claim() == []
    assert devices.VISIBLE not in os.environ


@pytest.mark.parametrize(("value", "found"), [("", []), ("-1", []), ("3,GPU-ab", ["3", "GPU-ab"])])
def test_what_the_user_shows_is_all_there_is(place, monkeypatch, value, found):
    monkeypatch.delenv(devices.STAND_INS)
    monkeypatch.setenv(devices.VISIBLE, value)
    assert devices.present() == found


def test_a_machine_without_gpus_has_nothing_to_claim(place, monkeypatch):
    monkeypatch.delenv(devices.STAND_INS)
    monkeypatch.setenv("PATH", "/nowhere")
    assert devices.claim() == []


def test_a_gpu_is_likely_where_one_is_listed_or_a_driver_is(place, monkeypatch, tmp_path):
    def likely() -> bool:
        devices.likely.cache_clear()
        return devices.likely()

    assert likely()  # the stand-ins
    monkeypatch.delenv(devices.STAND_INS)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(devices, "DRIVERS", (str(tmp_path / "driver"),))
    assert not likely()
    (tmp_path / "driver").touch()
    assert likely()
    monkeypatch.setenv(devices.VISIBLE, "")  # none is to be used
    assert not likely()
    devices.likely.cache_clear()
