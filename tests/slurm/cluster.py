"""A throw-away SLURM of this machine alone: a controller and two nodes on loopback, each with two stand-in GPUs.

    python -m tests.slurm.cluster install        fetches SLURM with apt if it is missing, or says why not
    python -m tests.slurm.cluster up FOLDER      starts it
    python -m tests.slurm.cluster down FOLDER    ends what it started and takes its configuration away again

The daemons are the real ones; only the nodes (both are this machine) and the GPUs (copies of /dev/null, which is enough
for SLURM to hand out CUDA_VISIBLE_DEVICES) are not. Jobs strip SLURM_CONF from their environment, so the configuration
has to lie in /etc/slurm: one that is not ours is never touched.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ETC = Path("/etc/slurm")
FILES = ("slurm.conf", "gres.conf", "cgroup.conf")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "sinfo", "scontrol", "scancel")
PACKAGES = ("slurm-wlm", "munge")
NODES = ("east", "west")
GPUS = 2  # a node
CPUS = 8  # a node claims, whatever the machine has
KILL_WAIT = 15  # s between SIGTERM and SIGKILL
GRACE = 20  # s that a preempted job has

SLURM_CONF = r"""# A throw-away cluster of everypoint's tests
ClusterName=everypoint
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# a requeued job waits for the credential of its former life to expire, 120 s by default
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
# works without cgroups and without binding to cores; by process group, for a Snakemake whose shell was ended first is
# nobody's child, and told to stop at the wrong moment it waits for itself
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true
SlurmdParameters=config_overrides
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=0,bf_interval=2
PriorityType=priority/basic
AccountingStorageType=accounting_storage/none
MinJobAge=3600
InactiveLimit=0
KillWait={kill_wait}
SlurmctldTimeout=30
SlurmdTimeout=15
NodeName={nodes} NodeHostname={host} NodeAddr=127.0.0.1 Port=[{ports[1]}-{ports[2]}] \
    CPUs={cpus} RealMemory={memory} Gres=gpu:h200:{gpus}
PartitionName=cpu Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=5 PreemptMode=OFF
PartitionName=gpu Nodes=ALL MaxTime=INFINITE PriorityTier=5 PreemptMode=OFF
PartitionName=spare Nodes=ALL MaxTime=INFINITE PriorityTier=1 PreemptMode=REQUEUE GraceTime={grace}
PartitionName=urgent Nodes=ALL MaxTime=INFINITE PriorityTier=9 PreemptMode=OFF
"""
CGROUP_CONF = (
    "CgroupPlugin=cgroup/v1\nCgroupAutomount=no\nConstrainCores=no\nConstrainDevices=no\nConstrainRAMSpace=no\n"
)


def absent() -> str | None:
    """Why there can be no cluster here, in one sentence; None when there can."""
    if os.geteuid() != 0:
        return "the tests on a real SLURM need root, because its daemons do"
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"the tests on a real SLURM need {', '.join(missing)}: install the packages {' and '.join(PACKAGES)}"
    if (ETC / "slurm.conf").exists() and not _is_ours(ETC / "slurm.conf"):
        return f"this machine has a SLURM of its own ({ETC / 'slurm.conf'}), which the tests leave alone"
    owner = (ETC / "slurm.conf").readlink().parent if (ETC / "slurm.conf").is_symlink() else None
    if owner is not None and _lives(_pid(owner / "slurmctld.pid")):
        return f"another one is up: python -m tests.slurm.cluster down {owner}"
    return None


def install() -> str | None:
    """Fetch what is missing with apt, if that may be; as :func:`absent`."""
    reason = absent()
    if reason is None or os.geteuid() != 0 or all(map(shutil.which, PROGRAMS)) or shutil.which("apt-get") is None:
        return reason
    # at this run level packages start no services; a machine that cannot reach its mirror says so soon
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    apt = ["apt-get", "-qq", "-o", "Acquire::Retries=1", "-o", "Acquire::http::Timeout=20"]
    with contextlib.suppress(subprocess.SubprocessError):
        for arguments in (["update"], ["install", "-y", "--no-install-recommends", *PACKAGES]):
            subprocess.run([*apt, *arguments], env=environment, stdout=subprocess.DEVNULL, timeout=240, check=False)
    return absent()


def _is_ours(path: Path) -> bool:
    return path.is_symlink() and SLURM_CONF.splitlines()[0] in path.read_text(errors="replace")


class Cluster:
    """The daemons of one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()

    # ------------------------------------------------------------------------------------------ up, down

    def start(self) -> None:
        """Start all of it; raises RuntimeError with the logs when the nodes do not come up."""
        reason = absent()
        if reason:
            raise RuntimeError(reason)
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "state").mkdir(exist_ok=True)
        self._configure()
        self._start_munge()
        self._call("slurmctld", "-c")
        for node in NODES:
            self.start_node(node)
        self.wait(lambda: self.idle() == set(NODES), 60, "the nodes to come up")

    def start_node(self, name: str) -> None:
        """Start the daemon of a node."""
        (self.folder / f"spool.{name}").mkdir(exist_ok=True)
        self._call("slurmd", "-N", name)

    def _start_munge(self) -> None:
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        self._call("munged", "--force", *(f"--{option}={self.folder}/munge.{end}" for option, end in files.items()))

    def _configure(self) -> None:
        memory = max(2048, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20 - 512)
        text = SLURM_CONF.format(
            host=socket.gethostname().split(".")[0],
            folder=self.folder,
            ports=_free_ports(1 + len(NODES)),
            nodes=",".join(NODES),
            cpus=CPUS,
            gpus=GPUS,
            memory=memory,
            kill_wait=KILL_WAIT,
            grace=GRACE,
        )
        (self.folder / "slurm.conf").write_text(text)
        devices = [self._device(number) for number in range(GPUS)]
        lines = (f"NodeName={','.join(NODES)} Name=gpu Type=h200 File={device}\n" for device in devices)
        (self.folder / "gres.conf").write_text("".join(lines))
        (self.folder / "cgroup.conf").write_text(CGROUP_CONF)
        ETC.mkdir(exist_ok=True)
        for name in FILES:
            link = ETC / name
            if link.is_symlink():
                link.unlink()  # of a cluster of ours that was killed
            link.symlink_to(self.folder / name)

    def _device(self, number: int) -> Path:
        """A stand-in for /dev/nvidiaN; where no device may be made a file, which is counted but not shown to jobs."""
        path = self.folder / f"nvidia{number}"
        with contextlib.suppress(FileExistsError):
            try:
                os.mknod(path, 0o666 | 0o020000, os.stat("/dev/null").st_rdev)
            except PermissionError:
                path.touch()
        return path

    def stop(self) -> None:
        """Cancel what still runs, end the daemons, and take the configuration out of /etc/slurm."""
        with contextlib.suppress(subprocess.SubprocessError):
            self._call("scancel", "--user=root", timeout=20)
            self.wait(lambda: not self.jobs(), KILL_WAIT + 10, "jobs to end")
        for name in (*(f"slurmd.{node}" for node in NODES), "slurmctld", "munge"):
            self._end(self.folder / f"{name}.pid")
        for process in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        for name in FILES:
            if (ETC / name).is_symlink() and (ETC / name).readlink() == self.folder / name:
                (ETC / name).unlink()

    def _end(self, file: Path) -> None:
        pid = _pid(file)
        if pid is None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            with contextlib.suppress(TimeoutError):
                self.wait(lambda: not _lives(pid), 10, "a daemon to end")
                return

    # ---------------------------------------------------------------------------------------- what it is at

    def idle(self) -> set[str]:
        """Names of the nodes that wait for work."""
        return set(self._call("sinfo", "-h", "-N", "-p", "cpu", "-t", "idle", "-o", "%N").split())

    def jobs(self, *states: str) -> list[list[str]]:
        """Id, state, node, comment of jobs that are not over (or in one of ``states``)."""
        chosen = ["-t", ",".join(states)] if states else []
        lines = self._call("squeue", "-h", "-o", "%i|%T|%N|%k", *chosen).splitlines()
        return [line.split("|") for line in lines]

    def all_jobs(self) -> list[list[str]]:
        """The same of every job that there ever was."""
        return self.jobs("all")

    def processes(self) -> list[int]:
        """Daemons and job steps that belong to this cluster."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                command = (process / "cmdline").read_bytes()
                if command.startswith((b"slurmd", b"slurmctld", b"slurmstepd", b"munged")) and self._maps(process):
                    found.append(int(process.name))
        return found

    def _maps(self, process: Path) -> bool:
        """Whether a process has a file of this folder open."""
        for file in (process / "fd").iterdir():
            with contextlib.suppress(OSError):
                if os.readlink(file).startswith(str(self.folder)):
                    return True
        return False

    def kill_node(self, name: str) -> None:
        """A node dies: kill -9 of its daemon, its job steps and all that these started."""
        top = _pid(self.folder / f"slurmd.{name}.pid")
        jobs = {job for job, _, node, _ in self.jobs("running") if node == name}
        steps = [pid for pid, command in commands() if any(command.startswith(f"slurmstepd: [{job}.") for job in jobs)]
        for pid in [top, *(child for step in steps for child in (step, *descendants(step)))]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def kill_controller(self) -> None:
        """Nobody answers any more; jobs run on."""
        self._end(self.folder / "slurmctld.pid")

    def start_controller(self) -> None:
        """Start it again, with what it knew."""
        self._call("slurmctld")
        self.wait(self._answers, 60, "the controller to come back")

    def _answers(self) -> bool:
        with contextlib.suppress(RuntimeError):
            self.idle()
            return True
        return False

    def wait(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        """Until ``condition``; raises TimeoutError after ``seconds``."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError(f"{seconds} s were not enough for {what}\n{self.logs()}")
            time.sleep(0.2)

    def logs(self) -> str:
        """The last lines of each daemon."""
        tails = ((path.name, path.read_text(errors="replace").splitlines()[-12:]) for path in self.folder.glob("*.log"))
        return "\n".join(f"== {name}\n" + "\n".join(lines) for name, lines in tails)

    def call(self, *command: str) -> str:
        """Output of a client of SLURM."""
        return self._call(*command)

    def _call(self, *command: str, timeout: float = 60) -> str:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
        # the daemons go into the background and must not hold our pipes: their output goes to a file
        with open(self.folder / "calls.out", "w+") as out:
            try:
                subprocess.run(
                    command, stdout=out, stderr=subprocess.STDOUT, check=True, timeout=timeout, env=environment
                )
            except subprocess.CalledProcessError as error:
                raise RuntimeError(f"{' '.join(command)} ended with {error.returncode}:\n{_read(out)}") from None
            return _read(out)


def _read(file) -> str:
    file.seek(0)
    return file.read()


def commands() -> Iterator[tuple[int, str]]:
    """Process id and command line of everything that runs."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            yield int(process.name), (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")


def descendants(pid: int) -> list[int]:
    """Children of a process, whichever of its threads started them, and theirs."""
    found = []
    for thread in Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(OSError):
            for child in map(int, (thread / "children").read_text().split()):
                found += [child, *descendants(child)]
    return found


def _lives(pid: int | None) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def _pid(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def _free_ports(count: int) -> list[int]:
    """Ports in a row that nobody listens on."""
    for first in range(16800, 32000, 10):
        with contextlib.ExitStack() as stack:
            try:
                for port in range(first, first + count):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return list(range(first, first + count))
    raise RuntimeError("no free ports")


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description="A throw-away SLURM on this machine.")
    parser.add_argument("what", choices=("install", "up", "down"))
    parser.add_argument("folder", type=Path, nargs="?", default=Path(tempfile.gettempdir(), "everypoint-slurm"))
    asked = parser.parse_args()
    if asked.what == "install":
        sys.exit(install())
    cluster = Cluster(asked.folder)
    if asked.what == "down":
        cluster.stop()
        return
    try:
        cluster.start()
    except RuntimeError as error:
        sys.exit(str(error))
    sys.stdout.write(cluster.call("sinfo", "-N", "-o", "%N %P %t %c %m %G"))


if __name__ == "__main__":
    main()
