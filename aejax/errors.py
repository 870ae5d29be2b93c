"""Errors that aejax raises on purpose. Their messages are one line: what is wrong and what to change."""

import difflib
from collections.abc import Iterable


class AejaxError(Exception):
    """An error that the user can mend. Commands print its message, one line, without a traceback."""

    def __str__(self) -> str:
        return printable(super().__str__())


class InputError(AejaxError, ValueError):
    """A config, an array, a folder or a workdir that cannot be used as it is."""


class DivergedError(AejaxError, ArithmeticError):
    """The loss or its gradient stopped being finite."""


class StoppedError(AejaxError):
    """A run was asked to stop before there was anything to save."""


class LostError(AejaxError, ConnectionError):
    """Another process of the run cannot be reached, or has ended."""


class StorageError(AejaxError, OSError):
    """The workdir cannot be written or read."""


def printable(text: str) -> str:
    """Escapes characters that break a line or control a terminal, such as line breaks in file names."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def in_one_line(error: BaseException) -> str:
    """Returns the message of an error in one line, with the class of an error that is not aejax's own."""
    return " ".join((str(error) if isinstance(error, AejaxError) else repr(error)).split())


def shown(value: object) -> str:
    """Returns `repr(value)` in one line of at most 103 characters."""
    try:
        words = " ".join(repr(value).split())
    except Exception:  # for a number of more digits than Python writes, or a class whose repr fails
        words = f"a value of {type(value).__name__}"
    return words if len(words) <= 100 else f"{words[:100]}..."


def kind_and_words(error: BaseException) -> str:
    """Returns the class and the message of another library's error, in one line of bounded length."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def not_installed(feature: str, package: str) -> InputError:
    """Returns the error for a feature whose package is not installed."""
    return InputError(f"{feature} needs {package}: pip install {package}")


def one_of(what: str, name: str, choices: Iterable[str]) -> InputError:
    """Returns the error for a `name` that is not among `choices`, with the nearest one. `what` says what it names."""
    choices = sorted(choices)
    near = difflib.get_close_matches(str(name), choices, 1, cutoff=0.7)
    listed = ", ".join(choices) if len(choices) <= 30 else ""
    if near:
        return InputError(f"{what} {name!r} is unknown; did you mean {near[0]!r}?{listed and f' (One of: {listed})'}")
    return InputError(f"{what} {name!r} is unknown{listed and f'; choose one of: {listed}'}")
