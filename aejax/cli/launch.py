"""Training with several processes: aejax launch --processes=2 --config=... --workdir=...

The processes run on this machine, in a SLURM job (--executor=slurm) or on several hosts (--executor=hosts). For hosts,
the command prints the lines that start them, to be copied into a shell. All flags other than those below are passed on
to `aejax train`. Ctrl-C and SIGTERM reach all processes, which save and exit. The same command resumes the training.
"""

import os
import sys
from pathlib import Path

from absl import flags

import aejax
from aejax.cli import command
from aejax.cli.launching import hosts
from aejax.cli.launching.flags import resources
from aejax.cli.launching.job import Job
from aejax.cli.launching.local import Local
from aejax.cli.launching.slurm import Slurm
from aejax.files import local

_EXECUTOR = flags.DEFINE_enum("executor", "local", ["local", "slurm", "hosts"], "Where the processes run.")
_PROCESSES = flags.DEFINE_integer("processes", 1, "local, slurm: number of processes.", lower_bound=1)
_DEVICES = flags.DEFINE_integer(
    "devices_per_process", None, "local: run on CPU, with this number of devices for XLA.", lower_bound=1
)
_HOSTS = flags.DEFINE_list(
    "hosts", [], "hosts: machines that ssh reaches, with one process each. The first one coordinates."
)
_TPU = flags.DEFINE_string("tpu", None, "hosts: name of a TPU VM or pod.")
_FOLDER = flags.DEFINE_string("folder", "aejax", "hosts: folder there that holds the .venv with aejax.")
_RESOURCES = resources()
OURS = {f.name for f in (_EXECUTOR, _PROCESSES, _DEVICES, _HOSTS, _TPU, _FOLDER)} | {"help", "helpshort", "helpfull"}


def divide(argv: list[str]) -> list[str]:
    """Takes arguments that are not flags of this command out of `argv`. Returns them."""
    for argument in argv[1:]:
        if not argument.startswith("-"):
            raise aejax.InputError(f"{argument!r} is not a flag; write --name=value")
    theirs = [a for a in argv[1:] if (n := a.lstrip("-").partition("=")[0]) not in OURS and not n.startswith("slurm.")]
    argv[1:] = [a for a in argv[1:] if a not in theirs]
    return theirs


def lines(job: Job) -> list[str]:
    if bool(_HOSTS.value) == bool(_TPU.value):
        raise aejax.InputError("--executor=hosts needs either --hosts=a,b,c or --tpu=NAME")
    if _TPU.value:
        return [hosts.over_gcloud(job, _TPU.value, _FOLDER.value)]
    return hosts.over_ssh(job, _HOSTS.value, _FOLDER.value)


def launch(theirs: list[str]) -> None:
    """Runs the training with the flags `theirs`, and exits with its status."""
    given = dict(a.lstrip("-").split("=", 1) for a in theirs if "=" in a)
    for name in ("config", "workdir"):
        if not given.get(name):
            raise aejax.InputError(f"--{name}=... is missing")
    workdir = Path(os.path.abspath(local(given["workdir"])))
    # The log lies beside the workdir, as a training must begin in an empty folder.
    job = Job(
        workdir.name, ("-m", "aejax.cli", "train", *theirs), workdir.with_name(f"{workdir.name}.log"), _PROCESSES.value
    )
    if _EXECUTOR.value == "hosts":
        print("\n".join(lines(job)))
        return
    here = Local(devices_per_process=_DEVICES.value, stream=True)
    executor = here if _EXECUTOR.value == "local" else Slurm(workdir.with_name(f"{workdir.name}.slurm"), _RESOURCES())
    with command.until_signal() as asked:
        (result,) = executor.run([job], asked)
    if result.error:
        print(f"error: {result.error.removeprefix('error: ')}", file=sys.stderr)
    sys.exit(result.status)


def main() -> None:
    theirs: list[str] = []
    command.run(lambda: launch(theirs), before=lambda argv: theirs.extend(divide(argv)))
