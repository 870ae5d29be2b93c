"""JAX's profiler on chosen steps of a training run."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from aejax.errors import InputError


def check(steps: range, begin: int, end: int) -> None:
    """Raises InputError where a run that trains from step `begin` to `end` does not come by all these steps."""
    if not begin <= steps.start < steps.stop <= end:
        asked = f"steps {steps.start}:{steps.stop} cannot be profiled: "
        if begin == end:
            raise InputError(f"{asked}the run stands at its last step, {end}; profile another one")
        raise InputError(
            f"{asked}choose the first and a later last one from {begin} to {end}, between which the run goes"
        )


@contextlib.contextmanager
def around(
    dispatch: Callable[..., Any], steps: range, begin: int, at_once: int, workdir: Path
) -> Iterator[Callable[..., Any]]:
    """The same dispatch of `at_once` steps, traced when it is called for `steps`.

    The trace covers whole dispatches: from the one with the first of the steps to the one with the last, with what is
    done between them. It is written to workdir/plugins/profile/, also where the run ends before the last.
    """
    first, last = ((step - begin) // at_once for step in (steps.start, steps.stop - 1))
    called = 0

    def tell() -> None:
        newest, of = max((workdir / "plugins" / "profile").iterdir()), begin + called * at_once
        print(
            f"profile of steps {begin + first * at_once + 1:,} to {of:,}: {newest}; "
            f"to see it: pip install xprof, then xprof --logdir={workdir}",
            file=sys.stderr,
        )

    with contextlib.ExitStack() as trace:

        def call(state: Any, *rest: Any) -> Any:
            nonlocal called
            if called == first:
                jax.block_until_ready(state)  # leaves out what was asked for before
                trace.callback(tell)
                trace.enter_context(jax.profiler.trace(str(workdir)))
            with jax.profiler.StepTraceAnnotation("train", step_num=begin + called * at_once):
                result = dispatch(state, *rest)
            called += 1
            if called == last + 1:
                jax.block_until_ready(result)
                trace.close()
            return result

        yield call
