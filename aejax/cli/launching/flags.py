"""Flags of the commands that launch jobs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags

from aejax.cli.launching.local import Local
from aejax.cli.launching.slurm import Slurm


def resources() -> Callable[[], dict[str, Any]]:
    """Defines --slurm.*. Returns a function that reads them, by submitit's names."""
    given: dict[str, flags.FlagHolder] = {
        "slurm_partition": flags.DEFINE_string("slurm.partition", None, "Partition to run in."),
        "slurm_account": flags.DEFINE_string("slurm.account", None, "Account to charge."),
        "slurm_qos": flags.DEFINE_string("slurm.qos", None, "Quality of service."),
        "slurm_constraint": flags.DEFINE_string("slurm.constraint", None, "Features that the nodes must have."),
        "timeout_min": flags.DEFINE_integer(
            "slurm.time", 60, "Minutes after which a job is queued again.", lower_bound=1
        ),
        "nodes": flags.DEFINE_integer("slurm.nodes", 1, "Nodes of a job.", lower_bound=1),
        "gpus_per_node": flags.DEFINE_integer("slurm.gpus", None, "GPUs of each node.", lower_bound=1),
        "cpus_per_task": flags.DEFINE_integer("slurm.cpus", None, "CPUs of each process.", lower_bound=1),
        "mem_gb": flags.DEFINE_float("slurm.memory", None, "GB of memory of each node.", lower_bound=0),
    }
    return lambda: {name: flag.value for name, flag in given.items()}


def executors() -> Callable[[Path], Local | Slurm]:
    """Defines --executor and its options. Returns a function that makes the executor, given a folder for its files."""
    executor = flags.DEFINE_enum("executor", "local", ["local", "slurm"], "Where the jobs run.")
    at_once = flags.DEFINE_integer(
        "jobs", 1, "Jobs at a time on this machine, which divide its devices.", lower_bound=1
    )
    slurm = resources()
    return lambda f: Local(at_once.value) if executor.value == "local" else Slurm(f / "slurm", slurm())
