"""A SLURM of one machine in a folder, with nothing outside it: for tests, and to try things by hand.

    apt-get install slurmctld slurmd slurm-client munge
    python tests/launching/one_machine.py /tmp/slurm   # prints the variable that clients need, until Ctrl-C

It takes two processes at a time. Jobs of the partition `urgent` preempt those of `normal`, which are queued again.
"""

import contextlib
import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol")
CONF = """\
ClusterName=here
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=30
ReturnToService=2
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=normal Nodes={host} Default=YES MaxTime=INFINITE PriorityTier=1 State=UP
PartitionName=urgent Nodes={host} MaxTime=INFINITE PriorityTier=2 State=UP
"""


def where(program: str) -> str | None:
    return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def free_ports(n: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(n)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


@contextlib.contextmanager
def slurm(folder: Path) -> Iterator[dict[str, str]]:
    """Starts it, and yields the environment variables of its clients."""
    for part in ("state", "spool"):
        (folder / part).mkdir(parents=True)
    key, conf = folder / "munge.key", folder / "slurm.conf"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o600)
    host = socket.gethostname().partition(".")[0]
    conf.write_text(CONF.format(host=host, user=getpass.getuser(), folder=folder, ports=free_ports(2)))
    variables = {"SLURM_CONF": str(conf)}
    munge = [f"--{kind}-file={folder}/munge.{kind}" for kind in ("key", "pid", "log", "seed")]
    commands = [
        [where("munged"), "--foreground", "--force", f"--socket={folder}/munge.socket", *munge],
        [where("slurmctld"), "-D", "-i"],
        [where("slurmd"), "-D", "-N", host],
    ]
    daemons = []
    try:
        with (folder / "daemons.log").open("ab") as log:
            for command in commands:
                daemons.append(subprocess.Popen(command, env={**os.environ, **variables}, stdout=log, stderr=log))
                _until(lambda: (folder / "munge.socket").exists(), daemons, folder)
        ready = ["sinfo", "-h", "-t", "idle", "-o", "%n"]
        _until(lambda: _output(ready, variables) == host, daemons, folder)
        yield variables
    finally:
        subprocess.run(["scancel", "--me"], env={**os.environ, **variables}, capture_output=True)
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait()


def _output(command: list[str], variables: dict[str, str]) -> str:
    done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True)
    return done.stdout.strip()


def _until(ready, daemons, folder) -> None:
    for _ in range(300):
        if ready():
            return
        if any(daemon.poll() is not None for daemon in daemons):
            break
        time.sleep(0.1)
    raise RuntimeError(f"SLURM did not start: {(folder / 'daemons.log').read_text()[-1000:]}")


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    with slurm(Path(sys.argv[1]).absolute()) as variables, contextlib.suppress(KeyboardInterrupt):
        print(*(f"export {name}={value}" for name, value in variables.items()), flush=True)
        while True:
            time.sleep(60)
