"""Executors: what runs commands of experiments, here or elsewhere, a few at a time.

    for result in executor.run(jobs, stop):  # Local or Slurm; each job has exactly one result, as they come
        print(result.name, result.status, result.error)

`stop()` is asked several times a second; once it is true the jobs are told to save and leave, those that wait are not
started, and the run ends when all have left.
"""

from experiments.launching.job import STOPPED, Executor, Job, Result
from experiments.launching.local import Local
from experiments.launching.slurm import Resources, Slurm

__all__ = ["STOPPED", "Executor", "Job", "Local", "Resources", "Result", "Slurm"]
