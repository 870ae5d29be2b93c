"""Task of a compute node. It imports little, so that it handles signals soon and leaves memory to the job."""

import contextlib
import os
import signal
import subprocess
from dataclasses import dataclass
from typing import Any

from aejax.cli.launching.job import STOPPED, Job, last_line, start


@dataclass
class Task:
    """One process of a job, which submitit pickles and calls on its node."""

    job: Job

    def __call__(self) -> int:
        import submitit

        here = submitit.JobEnvironment()
        argv = (*self.job.argv, *(["--distributed"] if self.job.processes > 1 else []))
        log, requeue = self.job.log_of(here.global_rank), here._usr_sig()
        # SLURM sends this signal before the time limit. It reaches the command, too, and would kill it.
        process = start(argv, log, preexec_fn=lambda: signal.signal(requeue, signal.SIG_IGN))
        self.pid = process.pid
        signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        status = process.wait()
        if status == STOPPED and here.global_rank == 0 and goes_on(here):
            os.kill(os.getpid(), requeue)  # SLURM's own signal, on which submitit queues the job again
        if status not in (0, STOPPED):
            raise SystemError(f"exit status {status}: {last_line(log)}")
        return status

    def checkpoint(self) -> Any:
        """Saves. Called by submitit in process 0 before it queues the job again."""
        import submitit

        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.pid, signal.SIGTERM)
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)  # Popen.wait may hold its lock in __call__
        return submitit.helpers.DelayedSubmission(Task(self.job))


def goes_on(here: Any) -> bool:
    """Tells whether a job whose command was stopped is to run again, which is not so after a cancellation."""
    if here.cluster != "slurm":
        return True
    state = subprocess.run(["squeue", "-h", "-j", here.raw_job_id, "-o", "%T"], capture_output=True, text=True)
    return state.stdout.strip() == "RUNNING"
