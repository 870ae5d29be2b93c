"""Executor that submits to SLURM through submitit (the extra `slurm`), which is imported when a job is submitted."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aejax
from aejax.cli.launching.job import STOPPED, Job, Result, last_line
from aejax.cli.launching.task import Task

RESTARTS = 1000  # requeues after a time limit, of which a long training may need many


@dataclass(frozen=True)
class Slurm:
    """Executor that submits all jobs at once. `folder` holds submitit's own files, and compute nodes must see it.

    A job that is preempted or reaches its time limit saves and is queued again. `stop` cancels the jobs, which save in
    the time that SLURM leaves them (KillWait). `cluster="local"` is submitit's stand-in for tests.
    """

    folder: Path
    resources: Mapping[str, Any] = field(default_factory=dict)  # by submitit's names; None is the cluster's default
    cluster: str = "slurm"
    poll: float = 5.0  # seconds between two calls of squeue

    def parameters(self, job: Job) -> dict[str, Any]:
        nodes = self.resources.get("nodes", 1)
        if job.processes % nodes:
            raise aejax.InputError(
                f"{job.processes} processes cannot be divided among {nodes} nodes; "
                f"give --processes and --slurm.nodes so that they can"
            )
        given = {**self.resources, "tasks_per_node": job.processes // nodes}
        return {key: value for key, value in given.items() if value is not None}

    def run(self, jobs: Sequence[Job], stop: Callable[[], bool]) -> Iterator[Result]:
        parameters = [self.parameters(job) for job in jobs]
        submitted = []
        try:
            for job, p in zip(jobs, parameters, strict=True):
                submitted.append((job, self._submit(job, p)))
                print(f"{job.name}: job {submitted[-1][1].job_id}, printing to {job.log}", file=sys.stderr)
        except BaseException:  # the same command would submit them twice
            for _, queued in submitted:
                queued.cancel()
            raise
        told, asked = False, -self.poll
        while submitted:
            if stop() and not told:
                told = True
                for _, queued in submitted:
                    queued.cancel()
            if time.monotonic() - asked > self.poll:
                asked, here = time.monotonic(), self._ended()
                for pair in [pair for pair in submitted if here(pair[1])]:
                    submitted.remove(pair)
                    yield result(*pair, told)
            time.sleep(0.1)

    def _submit(self, job: Job, parameters: dict[str, Any]) -> Any:
        try:
            import submitit
        except ImportError as error:
            raise aejax.errors.not_installed("--executor=slurm", "submitit") from error
        try:
            executor = submitit.AutoExecutor(self.folder, self.cluster, slurm_max_num_timeout=RESTARTS)
            executor.update_parameters(name=job.name, **parameters)
            kept = {key: os.environ[key] for key in ["SLURM_CONF"] if key in os.environ}
            # This process may itself be in a job.
            with submitit.helpers.clean_env(), submitit.helpers.environment_variables(**kept):
                return executor.submit(Task(job))
        except (RuntimeError, subprocess.CalledProcessError, submitit.core.utils.FailedJobError) as error:
            reason = " ".join(str(error).split())
            raise aejax.InputError(f"SLURM did not take {job.name!r}: {reason}") from error

    def _ended(self) -> Callable[[Any], bool]:
        """Returns a function that tells whether a submitted job has left the queue."""
        if self.cluster != "slurm":
            return lambda queued: queued.done()
        listed = subprocess.run(["squeue", "--me", "-h", "-o", "%A"], capture_output=True, text=True)
        return lambda queued: not listed.returncode and str(queued.job_id) not in listed.stdout.split()


def result(job: Job, queued: Any, cancelled: bool) -> Result:
    """Returns the result of a job that has left the queue."""
    tasks = [queued.task(i) for i in range(job.processes)]
    failed = [i for i, task in enumerate(tasks) if not task.paths.result_pickle.exists() or task.exception()]
    if not failed:
        return Result(job.name, STOPPED if any(task.result() == STOPPED for task in tasks) else 0)
    if cancelled:
        return Result(job.name, STOPPED)
    task, log = tasks[failed[0]], job.log_of(failed[0])
    if task.paths.result_pickle.exists():
        line = last_line(log)
    else:  # SLURM ended the task and wrote why
        line = last_line(task.paths.stderr, "error:") or last_line(task.paths.stderr)
    line = line or f"job {queued.job_id} ended without a word in {log}"
    return Result(job.name, 1, line if job.processes == 1 else f"process {failed[0]} of {job.processes}: {line}")
