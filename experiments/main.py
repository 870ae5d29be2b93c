"""What the thin mains share: errors as one line, quiet libraries, a signal that ends a run well."""

import contextlib
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from logging import getLogger
from typing import Any

from absl import app, flags, logging
from ml_collections import ConfigDict

import aejax
from aejax import memory


def run(main: Callable[[], None]) -> None:
    """Reads the flags and runs `main()`; what the user can mend is printed in one line, exit status 1."""
    memory.keep_freed()
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
    logging.set_verbosity(logging.ERROR)
    getLogger("asyncio").setLevel("CRITICAL")  # tasks that a failed save or read of Orbax leaves behind
    app.define_help_flags()
    try:
        rest = _read_flags(sys.argv)
        if rest:
            raise aejax.InputError(f"{rest[0]!r} is not a flag; write --name=value")
        main()
    except aejax.StoppedError as error:
        print(error, file=sys.stderr)
    except aejax.AejaxError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def _read_flags(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)[1:]
    except flags.Error as error:
        # A config file that raises comes as its whole traceback; our own errors in it say enough.
        message = str(error).strip().rpartition("InputError: ")[2]
        missing = re.match(r"flag --(\w+)=None:", message)
        raise aejax.InputError(f"--{missing[1]}=... is missing" if missing else message) from error
    except (AttributeError, KeyError, TypeError) as error:
        raise aejax.InputError(
            f"an override of a config does not fit: {' '.join(str(error.args[0]).split())}"
        ) from error


def loaded(config: ConfigDict) -> ConfigDict:
    """The config of a config flag, or InputError where its file could not be found."""
    try:
        config.is_locked  # noqa: B018  any attribute raises where loading failed
    except OSError as error:
        raise aejax.InputError(f"no such config file: {str(error).split()[-1]}; check its path") from error
    return config


def step(value: str) -> Any:
    """The checkpoint that a flag names: a step, "newest" or "best"."""
    if not (value.isdigit() or value in ("newest", "best")):
        raise aejax.InputError(f"--step={value} must be a whole number, newest or best")
    return int(value) if value.isdigit() else value


@contextlib.contextmanager
def until_signal() -> Iterator[Callable[[], bool]]:
    """Yields a question: has SIGTERM or Ctrl-C come? A second Ctrl-C interrupts at once."""
    asked: list[int] = []

    def handle(number, frame):
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.append(number)
        print(f"\n{signal.Signals(number).name}: saving, then leaving", file=sys.stderr)

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
