"""Commands of aejax on one device, by a server that has their imports done: most of a short command's time."""

import atexit
import functools
import json
import os
import re
import select
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


class Server:
    """A server of this process's, which runs one command at a time."""

    def __init__(self):
        flags = re.sub(r"device_count=\d+", "device_count=1", os.environ["XLA_FLAGS"])
        environment = {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT), "GLIBC_TUNABLES": ""}
        program = [sys.executable, str(ROOT / "tests/forkserver.py")]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen(program, cwd=ROOT, env=environment, text=True, **pipes)
        atexit.register(self._close)

    def begin(self, command, *arguments, output, errors, cwd=ROOT) -> int:
        """Starts a command whose output and errors are appended to files, and returns its process."""
        paths = {"output": str(output), "errors": str(errors), "cwd": str(cwd)}
        request = {"command": command, "arguments": [str(a) for a in arguments], **paths}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def end(self) -> int:
        """Waits for the command and returns its status."""
        return int(self._process.stdout.readline())

    def ends_within(self, seconds: float) -> bool:
        return bool(select.select([self._process.stdout], [], [], seconds)[0])

    def _close(self):
        self._process.communicate(timeout=60)


server = functools.cache(Server)


def run(command, *arguments, cwd=ROOT):
    """Returns the status, output and errors of a command."""
    with tempfile.TemporaryDirectory() as folder:
        output, errors = Path(folder) / "output", Path(folder) / "errors"
        process = server().begin(command, *arguments, output=output, errors=errors, cwd=cwd)
        if not server().ends_within(120):
            os.kill(process, 9)
        return server().end(), output.read_text(), errors.read_text()
