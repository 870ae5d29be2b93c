"""Executors, which run jobs here or elsewhere: many jobs, or one job of several processes.

    for result in executor.run(jobs, stop):  # each job has one result, which comes when the job ends
        print(result.name, result.status, result.error)

The executor is a `Local` or a `Slurm`; `hosts` only prints what to type. `stop()` is called several times a second.
Once it is true, running jobs are told to save and exit, waiting jobs are not started, and the run ends with the jobs.
"""
