"""Executors: what runs commands here or elsewhere, many of them or one of several processes.

    for result in executor.run(jobs, stop):  # each job has exactly one result; they come as jobs end
        print(result.name, result.status, result.error)

The executor is a `Local` or a `Slurm`; `hosts` only says what to type. `stop()` is asked several times a second: once
it is true the jobs are told to save and leave, those that wait are not started, and the run ends when all have left.
"""
