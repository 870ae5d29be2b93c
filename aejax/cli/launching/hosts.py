"""Lines that start one training on several machines, to be copied into a shell."""

import shlex
from collections.abc import Sequence

import aejax
from aejax.cli.launching.job import Job
from aejax.cli.launching.local import together

PORT = 8476
PYTHON = ".venv/bin/python"  # where the README installs aejax


def on_host(folder: str, argv: Sequence[str]) -> str:
    """Returns the shell command that runs Python with `argv` in `folder` on the host. `folder` may begin with ~/."""
    rest = folder.removeprefix("~/")
    home = folder[: len(folder) - len(rest)]  # inside quotes, ~ would be the name of a folder
    return f"cd {home}{shlex.quote(rest)} && {shlex.join([PYTHON, *argv])}"


def over_ssh(job: Job, hosts: Sequence[str], folder: str) -> list[str]:
    """Returns a line for each host, of which the first coordinates. No process begins before all are running."""
    for host in hosts:
        if not host or host.startswith("-") or len(host.split()) != 1:
            raise aejax.InputError(f"--hosts: {host!r} is not the name of a host; write --hosts=a,b,c")
    if len(set(hosts)) < len(hosts):
        raise aejax.InputError(f"--hosts={','.join(hosts)} names a host twice; each runs one process")
    coordinator = f"{hosts[0].rpartition('@')[2]}:{PORT}"
    commands = [(*job.argv, *together(coordinator, len(hosts), i)) for i in range(len(hosts))]
    return [f"ssh {shlex.quote(h)} {shlex.quote(on_host(folder, c))}" for h, c in zip(hosts, commands, strict=True)]


def over_gcloud(job: Job, name: str, folder: str) -> str:
    """Returns one line for all hosts of a TPU pod, which find each other by themselves."""
    command = on_host(folder, (*job.argv, "--distributed"))
    return f"gcloud compute tpus tpu-vm ssh {shlex.quote(name)} --worker=all --command={shlex.quote(command)}"
