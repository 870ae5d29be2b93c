"""Traces of chosen training steps by JAX's profiler."""

import contextlib
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from aejax.errors import InputError


def clip_steps(steps: range, begin: int, end: int) -> range | None:
    """Returns those of the steps that a run from step `begin` to `end` reaches. Without any, warns and returns None.

    A resumed run, started by the same command, may have passed them. Raises InputError for an empty range.
    """
    asked = f"steps {steps.start}:{steps.stop}"
    if not steps:
        raise InputError(f"{asked} cannot be profiled: the last one must be later than the first")
    left = range(max(steps.start, begin), min(steps.stop, end))
    if not left:
        warnings.warn(f"{asked} are not profiled: the run goes from step {begin} to step {end} now", stacklevel=2)
    return left or None


@contextlib.contextmanager
def trace_steps(
    dispatch: Callable[..., Any], steps: range | None, begin: int, at_once: int, workdir: Path
) -> Iterator[Callable[..., Any]]:
    """Yields `dispatch`, which runs `at_once` steps, with a trace of the given steps. Without steps, adds nothing.

    The trace covers whole dispatches, from the one with the first of the steps to the one with the last, and the work
    between them. It is written to workdir/plugins/profile/, even if the run ends before the last of the steps.
    """
    if steps is None:
        yield dispatch
        return
    first, last = ((step - begin) // at_once for step in (steps.start, steps.stop - 1))
    called = 0

    def report() -> None:
        newest, reached = max((workdir / "plugins" / "profile").iterdir()), begin + called * at_once
        print(
            f"profile of steps {begin + first * at_once + 1:,} to {reached:,}: {newest}; "
            f"to see it: pip install xprof, then xprof --logdir={workdir}",
            file=sys.stderr,
        )

    with contextlib.ExitStack() as trace:

        def call(state: Any, *rest: Any) -> Any:
            nonlocal called
            if called == first:
                jax.block_until_ready(state)  # excludes earlier dispatches from the trace
                trace.callback(report)
                trace.enter_context(jax.profiler.trace(str(workdir)))
            with jax.profiler.StepTraceAnnotation("train", step_num=begin + called * at_once):
                result = dispatch(state, *rest)
            called += 1
            if called == last + 1:
                jax.block_until_ready(result)
                trace.close()
            return result

        yield call
