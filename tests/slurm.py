"""A real Slurm of one node, from the system's own binaries (Debian: slurm-wlm, munge), on free ports.

As root or not: its controller, its node and munge all run as whoever runs the tests, in a folder of their
own, and die with this process. `SLURM_CONF` in the environment is what Slurm's commands find it by.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.services import free_port

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel", "munged")
PACKAGES = ("slurm-wlm", "munge")
NODE = "node0"
CONF = """\
ClusterName=ratchet
SlurmctldHost={host}(127.0.0.1)
MailProg=/bin/true
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={controller}
SlurmdPort={daemon}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/builtin
SchedulerParameters=batch_sched_delay=0,sched_interval=1
KillWait=10
MinJobAge=300
SlurmdTimeout=10
ReturnToService=2
SlurmdParameters=config_overrides
NodeName={node} NodeAddr=127.0.0.1 NodeHostname={node} CPUs=2 RealMemory=100000 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
# Nothing above uses cgroups. But a node that is to find out their version by itself does not start where none
# are mounted (containers), nor on version 2 without systemd's leave (containers again, and who is not root).
CGROUP_CONF = "CgroupPlugin=cgroup/v1\n"


def missing() -> list[str]:
    """Programs that are not there."""
    sbin = "/usr/sbin:/sbin"
    return [name for name in PROGRAMS if shutil.which(name, path=f"{os.environ['PATH']}:{sbin}") is None]


class Slurm:
    """One cluster; `start` it before a test's first job, `stop` it at the end."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ratchet-slurm-"))
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        self.folder.chmod(0o711)  # munge wants its socket to be reached by all
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        conf = self.folder / "slurm.conf"
        ports = {"controller": free_port(), "daemon": free_port()}
        conf.write_text(
            CONF.format(
                folder=self.folder, user=getpass.getuser(), host=socket.gethostname(), node=NODE, **ports
            )
        )
        (self.folder / "cgroup.conf").write_text(CGROUP_CONF)
        os.environ["SLURM_CONF"] = str(conf)
        files = [f"--{name}-file={self.folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
        self._run("munged", "--foreground", "--force", f"--socket={self.folder}/munge.socket", *files)
        self._wait(lambda: (self.folder / "munge.socket").exists())
        self._run("slurmctld", "-D", "-f", str(conf))
        self.start_node()

    def start_node(self) -> None:
        self._run("slurmd", "-D", "-f", str(self.folder / "slurm.conf"), "-N", NODE)
        self._wait(lambda: self.node_state().startswith(("idle", "mix", "alloc")))

    def kill_node(self) -> None:
        """The machine fails: its daemon, and all that it started, are gone."""
        import psutil

        daemon = psutil.Process(self._daemons.pop("slurmd").pid)
        victims = [daemon, *daemon.children(recursive=True)]
        for process in psutil.process_iter(["cmdline", "environ"]):
            environ, words = process.info["environ"] or {}, " ".join(process.info["cmdline"] or [])
            of_a_job = "SLURM_JOB_ID" in environ or "slurmstepd" in words
            if of_a_job and environ.get("SLURM_CONF") == os.environ["SLURM_CONF"]:
                victims.append(process)
        # All stand still before the first dies: none is left that could tell the controller of another's end.
        for signal_ in (signal.SIGSTOP, signal.SIGKILL):
            for process in victims:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(signal_)
        subprocess.run(
            ["scontrol", "update", f"NodeName={NODE}", "State=DOWN", "Reason=test"], check=True, timeout=30
        )

    def node_state(self) -> str:
        done = subprocess.run(["sinfo", "--noheader", "-o", "%T"], capture_output=True, text=True, timeout=30)
        return done.stdout.strip()

    def stop(self) -> None:
        for process in self._daemons.values():
            process.send_signal(signal.SIGTERM)
        for process in self._daemons.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        os.environ.pop("SLURM_CONF", None)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, program: str, *words: str) -> None:
        path = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
        assert path is not None
        with (self.folder / f"{program}.out").open("wb") as output:
            # The kernel ends it with us.
            command = ["setpriv", "--pdeathsig=KILL", "--", path, *words]
            self._daemons[program] = subprocess.Popen(command, stdout=output, stderr=output)

    def _wait(self, holds: Callable[[], bool], seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            dead = [name for name, process in self._daemons.items() if process.poll() is not None]
            assert not dead and time.monotonic() < deadline, (
                dead,
                *(path.read_text(errors="replace")[-800:] for path in self.folder.glob("*.[ol]*")),
            )
            time.sleep(0.1)
