"""Parts that all commands share: errors in one line, quiet libraries, the program cache, an orderly end on a signal.

JAX is imported where it is used, because --help does not need it.
"""

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
from typing import TYPE_CHECKING, Any

from absl import app, flags, logging
from ml_collections import ConfigDict

import aejax
from aejax import config as config_lib
from aejax.cli.launching.job import STOPPED
from aejax.files import cache_of_user, local, make_write_error, writable

if TYPE_CHECKING:
    from aejax import data

_PATIENCE = 120  # seconds

_CACHE = flags.DEFINE_string(
    "compilation_cache",
    None,
    "Folder of the cache of compiled programs, '' for no cache. Defaults to JAX_COMPILATION_CACHE_DIR, or to aejax in "
    "the user's cache folder.",
)
_TRUST = flags.DEFINE_list(
    "trust", [], "Modules or packages of your own that a workdir's config may name. Their code runs."
)


def run(
    main: Callable[..., None], before: Callable[[list[str]], None] = lambda argv: None, positional: bool = False
) -> None:
    """Reads the flags and runs `main()`. Prints an error that the user can mend in one line, with exit status 1.

    `before` gets `sys.argv` first and may take arguments out. With `positional`, arguments that are not flags are
    allowed, and `main` gets them as a list. The command ends quietly when its reader has left, as in `| head -1`.
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
            except BrokenPipeError:  # otherwise Python flushes again at exit, and complains
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _run(main: Callable[..., None], before: Callable[[list[str]], None], positional: bool) -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # characters that the terminal cannot show are escaped
            stream.reconfigure(errors="backslashreplace")
    warnings.showwarning, sys.unraisablehook = _show, _show_unraisable
    logging.set_verbosity(logging.FATAL)  # Orbax's messages about a failed save repeat our own error
    getLogger("asyncio").setLevel("CRITICAL")  # complains about tasks that Orbax leaves behind after a failure
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
            error = make_write_error(error.filename or "the output", error)
        jax = sys.modules.get("jax")  # otherwise no command has begun, and a slip in a flag need not wait for JAX
        if jax and jax.distributed.is_initialized():
            from aejax.distributed import processes

            processes.leave(error)
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def _show(message: Warning | str, *_: object, **__: object) -> None:
    """Prints a warning in one line. Removes a cached program that cannot be read, as JAX would never replace it."""
    if unread := re.match("Error reading persistent compilation cache entry for '([^']+)'", str(message)):
        import jax

        folder = jax.config.jax_compilation_cache_dir
        for file in Path(folder).glob(f"{unread[1]}-*"):
            with contextlib.suppress(OSError):  # another process was first, or it is another user's
                file.unlink()
        message = f"a cached program in {folder} cannot be read and is compiled again"
    print(f"warning: {message}", file=sys.stderr)


def _show_unraisable(unraisable: Any) -> None:
    """Prints an error that no caller gets, unless it is of a write that ends after another one of its save failed."""
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def _keep_programs(folder: str | None) -> None:
    """Sets JAX's persistent compilation cache to `folder`, which defaults to the folder of JAX's own setting."""
    import jax

    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)  # many small programs add up to seconds
    told = jax.config.jax_compilation_cache_dir
    if folder is None and told and "://" in told:  # remote, which JAX itself handles
        return
    if folder is None:
        folder = told or str(_programs_of_user())
    try:
        kept = str(writable(local(folder))) if folder else None
    except aejax.StorageError as error:
        warnings.warn(
            f"compiled programs are not cached: {error}, or choose a folder by --compilation_cache=", stacklevel=2
        )
        kept = None
    jax.config.update("jax_compilation_cache_dir", kept)


def _programs_of_user() -> Path:
    """Returns a cache folder for this kind of processor, as JAX's keys do not distinguish one CPU from another."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return cache_of_user() / f"{platform.machine()}-{zlib.crc32(features.encode()):08x}"


def _read_flags(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)[1:]
    except flags.Error as error:
        # An error in a config file arrives as a whole traceback, of which our own error's message is enough.
        message = str(error).strip().rpartition("InputError: ")[2].removesuffix("\\n")  # absl escapes line ends
        missing = re.match(r"flag --(\w+)=None:", message)
        message = message if len(message) <= 500 else f"{message[:500]}..."
        raise aejax.InputError(f"--{missing[1]}=... is missing" if missing else message) from error
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError, MemoryError) as error:
        said = str(error.args[0]) if error.args else type(error).__name__
        words, _, others = " ".join(said.split()).partition(" Other fields present")  # a list of all keys
        hint = re.search(r"Did you mean [^{}]{1,100}$", others)
        words = f"{words[:500]} {hint[0]}" if hint else words[:500]
        if isinstance(error, KeyError) and " " not in words:
            words = f"there is no {words}"
        raise aejax.InputError(f"an override of a config does not fit: {words}") from error
    except SystemExit as error:
        asked = any(a.lstrip("-").partition("=")[0] in ("?", "help", "helpfull", "helpshort", "helpxml") for a in argv)
        raise SystemExit(0 if asked else error.code) from error  # absl exits with 1 after --help


def loads_once() -> "Callable[[ConfigDict], data.Splits]":
    """Returns `data.load` with a cache, for runs that share their data."""
    from aejax import data

    found: dict[str, data.Splits] = {}

    def load(section: ConfigDict) -> data.Splits:
        key = config_lib.to_json(section)
        if key not in found:
            found[key] = data.load(section)
        return found[key]

    return load


def load(workdir: str | Path, step: str, section: ConfigDict | None = None) -> "aejax.Run":
    """Returns the run of a workdir at a checkpoint, or the published model of a folder with data to use it on.

    Args:
      step: a number, "newest" or "best", as a flag gives it.
      section: the data section of a published model, as the flags --data.name, ... give it.
    """
    from aejax import pretrained

    if not (step.isdigit() or step in ("newest", "best")):
        raise aejax.InputError(f"--step={step} must be a whole number, newest or best")
    if pretrained.is_published(folder := local(workdir)):
        if step != "newest":
            raise aejax.InputError(f"{folder} holds a published model, which has no checkpoints; leave --step out")
        run = aejax.load_pretrained(folder, section.size or None if section else None)
        if section:
            if not section.name:
                raise aejax.InputError(
                    f"{folder} holds a published model without data; set --data.name, and --data.size"
                )
            run.config.data.update(section)
            config_lib.check(run.config)
        return run
    if section and section.name:
        raise aejax.InputError(f"{folder} is the workdir of a run, which has data of its own; leave --data.name out")
    chosen: Any = int(step) if step.isdigit() else step
    return aejax.load_run(workdir, chosen, _TRUST.value)


@contextlib.contextmanager
def until_signal() -> Iterator[Callable[[], bool]]:
    """Yields a function that tells whether SIGTERM or Ctrl-C has come. A second Ctrl-C interrupts at once.

    If the function is not called for long after SIGTERM, e.g. because the data hangs, the process ends without saving.
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
                "the same command resumes from the newest checkpoint",
                file=sys.stderr,
                flush=True,
            )
            os._exit(STOPPED)  # any other exit waits for the threads that hang

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
