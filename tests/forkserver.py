"""Starts commands of aejax without their imports: reads requests in JSON, prints each process and then how it ended.

What it forks is `aejax COMMAND` from after its imports on: no JAX backend is begun here, nor a thread of Python's.
"""

import gc
import json
import os
import sys
import threading
import warnings

import aejax.evaluation
import aejax.training.loop  # noqa: F401
from aejax.cli.__main__ import main

gc.freeze()  # as in conftest.py
gc.set_threshold(100_000)

for line in sys.stdin:
    request = json.loads(line)
    assert threading.active_count() == 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # JAX has threads once it has a backend, which it has not
        child = os.fork()
    if not child:
        os.chdir(request["cwd"])
        for number, path in ((1, request["output"]), (2, request["errors"])):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
        sys.argv = ["aejax", *request["arguments"]]
        main(request["command"])
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
