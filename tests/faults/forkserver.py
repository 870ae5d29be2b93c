"""Starts commands without their imports: reads JSON lists of arguments, prints the process and then how it ended.

What it forks is `python -m experiments.train` from after its imports on: no JAX backend is begun here, nor a thread of
Python's.
"""

import json
import os
import sys
import threading
import warnings

from aejax.cli import train

for line in sys.stdin:
    module, log, *arguments = json.loads(line)
    assert threading.active_count() == 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # JAX has threads once it has a backend, which it has not
        child = os.fork()
    if not child:
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        sys.argv = [module, *arguments]
        {"train": train.main}[module]()
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
