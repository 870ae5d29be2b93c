"""The lines that start one training on several machines, to be copied into a shell."""

import shlex
from collections.abc import Sequence

import aejax
from aejax.cli.launching.job import Job
from aejax.cli.launching.local import together

PORT = 8476
PYTHON = ".venv/bin/python"  # as the README installs it


def on_host(folder: str, argv: Sequence[str]) -> str:
    """What a shell on the host runs: Python with `argv` in the checkout, `folder`, which may begin with ~/."""
    rest = folder.removeprefix("~/")
    home = folder[: len(folder) - len(rest)]  # in quotes ~ would be a folder of this name
    return f"cd {home}{shlex.quote(rest)} && {shlex.join([PYTHON, *argv])}"


def over_ssh(job: Job, hosts: Sequence[str], folder: str) -> list[str]:
    """A line for each host; the first one coordinates. All must be running for any to begin."""
    for host in hosts:
        if not host or host.startswith("-") or len(host.split()) != 1:
            raise aejax.InputError(f"--hosts: {host!r} is not the name of a host; write --hosts=a,b,c")
    if len(set(hosts)) < len(hosts):
        raise aejax.InputError(f"--hosts={','.join(hosts)} names a host twice; each runs one process")
    coordinator = f"{hosts[0].rpartition('@')[2]}:{PORT}"
    commands = [(*job.argv, *together(coordinator, len(hosts), i)) for i in range(len(hosts))]
    return [f"ssh {shlex.quote(h)} {shlex.quote(on_host(folder, c))}" for h, c in zip(hosts, commands, strict=True)]


def over_gcloud(job: Job, name: str, folder: str) -> str:
    """One line for all hosts of a TPU pod, who find each other."""
    command = on_host(folder, (*job.argv, "--distributed"))
    return f"gcloud compute tpus tpu-vm ssh {shlex.quote(name)} --worker=all --command={shlex.quote(command)}"
