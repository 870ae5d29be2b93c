"""What the thin mains share: errors as one line, quiet libraries, a signal that ends a run well."""

import contextlib
import errno
import io
import os
import platform
import re
import signal
import sys
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from logging import getLogger
from pathlib import Path
from typing import Any

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict

import aejax
from aejax import config as config_lib
from aejax import data, processes
from aejax.cli.launching.job import STOPPED
from aejax.storage import cache_of_user, local, writable

_PATIENCE = 120  # seconds

_CACHE = flags.DEFINE_string(
    "compilation_cache",
    None,
    "Folder where compiled programs are kept for the next start, '' for none. Unless told: "
    "JAX_COMPILATION_CACHE_DIR, or aejax in the user's cache folder.",
)
_TRUST = flags.DEFINE_list(
    "trust", [], "Modules or packages of your own that the config of a workdir may name: their code runs."
)


def run(
    main: Callable[..., None], before: Callable[[list[str]], None] = lambda argv: None, positional: bool = False
) -> None:
    """Reads the flags and runs `main()`; what the user can mend is printed in one line, exit status 1.

    `before` is given the arguments first, and may take some away. With `positional`, arguments that are no flags are
    allowed, and `main` is given their list. Where nobody reads the output any more, as after `| head -1`, it ends.
    """
    try:
        _run(main, before, positional)
        sys.stdout.flush()
    except BrokenPipeError:
        sys.exit(128 + signal.SIGPIPE)
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except BrokenPipeError:  # or Python tries again when it leaves, and complains
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _run(main: Callable[..., None], before: Callable[[list[str]], None], positional: bool) -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that has not all letters gets those it lacks escaped
            stream.reconfigure(errors="backslashreplace")
    warnings.showwarning = _show
    logging.set_verbosity(logging.FATAL)  # what Orbax says of a save that failed is told by our own error
    getLogger("asyncio").setLevel("CRITICAL")  # tasks that a failed save or read of Orbax leaves behind
    app.define_help_flags()
    try:
        before(sys.argv)
        rest = _read_flags(sys.argv)
        if rest and not positional:
            raise aejax.InputError(f"{rest[0]!r} is not a flag; write --name=value")
        _keep_programs(_CACHE.value)
        main(rest) if positional else main()
    except aejax.StoppedError as error:
        print(error, file=sys.stderr)
        sys.exit(STOPPED)
    except (aejax.AejaxError, OSError) as error:
        if not isinstance(error, aejax.AejaxError):
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            error = aejax.StorageError(f"{error.strerror}: {error.filename or 'while writing'}; free some space")
        if jax.distributed.is_initialized():
            processes.leave(error)
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def _show(message: Warning | str, *_: object, **__: object) -> None:
    """Prints a warning in one line, and removes a kept program that was cut off: JAX would never replace it."""
    if unread := re.match("Error reading persistent compilation cache entry for '([^']+)'", str(message)):
        folder = jax.config.jax_compilation_cache_dir
        for file in Path(folder).glob(f"{unread[1]}-*"):
            with contextlib.suppress(OSError):  # another process was first, or it is another user's
                file.unlink()
        message = f"a program kept in {folder} cannot be read and is compiled anew"
    print(f"warning: {message}", file=sys.stderr)


def _keep_programs(folder: str | None) -> None:
    """Sets JAX's persistent compilation cache to `folder`, or to what it was told by its own variable."""
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)  # many small programs take seconds, too
    told = jax.config.jax_compilation_cache_dir
    if folder is None and told and "://" in told:  # JAX reads and writes there by itself
        return
    if folder is None:
        folder = told or str(_programs_of_user())
    try:
        kept = str(writable(local(folder))) if folder else None
    except aejax.StorageError as error:
        warnings.warn(
            f"compiled programs are not kept: {error}, or choose a folder by --compilation_cache=", stacklevel=2
        )
        kept = None
    jax.config.update("jax_compilation_cache_dir", kept)


def _programs_of_user() -> Path:
    """A folder for this kind of processor: JAX does not tell the programs of one CPU from those of another."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return cache_of_user() / f"{platform.machine()}-{zlib.crc32(features.encode()):08x}"


def _read_flags(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)[1:]
    except flags.Error as error:
        # A config file that raises comes as its whole traceback; our own errors in it say enough.
        message = str(error).strip().rpartition("InputError: ")[2]
        missing = re.match(r"flag --(\w+)=None:", message)
        message = message if len(message) <= 500 else f"{message[:500]}..."
        raise aejax.InputError(f"--{missing[1]}=... is missing" if missing else message) from error
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError, MemoryError) as error:
        said = str(error.args[0]) if error.args else type(error).__name__
        words, _, others = " ".join(said.split()).partition(" Other fields present")  # ml_collections lists all
        hint = re.search(r"Did you mean [^{}]{1,100}$", others)
        words = f"{words[:500]} {hint[0]}" if hint else words[:500]
        if isinstance(error, KeyError) and " " not in words:
            words = f"there is no {words}"
        raise aejax.InputError(f"an override of a config does not fit: {words}") from error
    except SystemExit as error:
        asked = any(a.lstrip("-").partition("=")[0] in ("?", "help", "helpfull", "helpshort", "helpxml") for a in argv)
        raise SystemExit(0 if asked else error.code) from error  # absl exits with 1 after --help


def loads_once() -> Callable[[ConfigDict], data.Splits]:
    """`data.load` that keeps what it has loaded, for runs that share it."""
    found: dict[str, data.Splits] = {}

    def load(section: ConfigDict) -> data.Splits:
        key = config_lib.to_json(section)
        if key not in found:
            found[key] = data.load(section)
        return found[key]

    return load


def load(workdir: str | Path, step: str) -> aejax.Run:
    """The run of a workdir at the checkpoint that a flag names: a step, "newest" or "best"."""
    if not (step.isdigit() or step in ("newest", "best")):
        raise aejax.InputError(f"--step={step} must be a whole number, newest or best")
    chosen: Any = int(step) if step.isdigit() else step
    return aejax.load_run(workdir, chosen, _TRUST.value)


@contextlib.contextmanager
def until_signal() -> Iterator[Callable[[], bool]]:
    """Yields a question: has SIGTERM or Ctrl-C come? A second Ctrl-C interrupts at once.

    Where nobody asks for long after SIGTERM, because the data hangs, say, the process ends without another save.
    """
    asked: list[int] = []
    heard = threading.Event()

    def question() -> bool:
        if asked:
            heard.set()
        return bool(asked)

    def leave() -> None:
        if not heard.wait(_PATIENCE):
            print(
                f"error: no step was done for {_PATIENCE} s after SIGTERM: does the data hang? Left without saving; "
                "the same command goes on from the newest checkpoint",
                file=sys.stderr,
                flush=True,
            )
            os._exit(STOPPED)  # threads that hang keep every other way out waiting

    def handle(number, frame):
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.append(number)
        print(f"\n{signal.Signals(number).name}: saving, then leaving", file=sys.stderr)
        if number == signal.SIGTERM:
            threading.Thread(target=leave, daemon=True).start()

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield question
    finally:
        heard.set()
        for number, handler in before.items():
            signal.signal(number, handler)
