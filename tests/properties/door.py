"""What all doors promise of anything that is brought to them: the right end, or one line, soon and in little memory."""

import contextlib
import resource
import signal
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import aejax

SECONDS, MEGABYTES = 60, 1_000  # of one case, above what the process held before it

# Few cases with each suite, a thousand with the slow tests.
thousand = pytest.param(1_000, marks=pytest.mark.slow)
cases = pytest.mark.parametrize("cases", [25, thousand])
many_cases = pytest.mark.parametrize("cases", [thousand])  # where even few take seconds

NUMBERS = st.one_of(
    st.sampled_from([0, 1, -1, 2**31, 2**32, 2**63, 2**64, 10**400, 1e38, 1e39, 1e-45, -0.0]),
    st.integers(),
    st.floats(),
)
WORDS = st.one_of(
    st.sampled_from(["", "adam", "0", "nan", "a/b", "..", "\0", "a\nb", "é\u202e", "\ud800", "x" * 999]), st.text()
)
# What JSON holds, and what some write of it: NaN and Infinity.
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, WORDS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(WORDS, inner, max_size=3)),
    max_leaves=8,
)


def mostly(usual, odd):
    """Three of four are usual; `one_of` would give each strategy within `odd` as much room."""
    return st.integers(0, 3).flatmap(lambda k: usual if k else odd)


class OverTime(BaseException):
    """No Exception, for the door to take for its own."""


def try_all(cases, door, **strategies):
    """Calls `door` with `cases` draws of the strategies, the same each time.

    Each ends in an AejaxError of one line, or not in an error at all, and within SECONDS and MEGABYTES. It may give
    warnings meant for its user, of one line as well.
    """

    @settings(
        max_examples=cases,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(**strategies)
    def one(**drawn):
        before = signal.signal(signal.SIGALRM, _over_time)
        signal.alarm(SECONDS)
        said: list = []
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # Linux: the highest is what is held now
        held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            with warnings.catch_warnings(action="error"):
                warnings.simplefilter("always", UserWarning)
                warnings.showwarning = lambda message, *_: said.append(message)
                door(**drawn)
        except aejax.AejaxError as error:
            said.append(error)
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)
        lines = [str(each) for each in said]
        assert not any(len(line.splitlines()) != 1 for line in lines), lines
        taken = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held) / 1024
        assert taken < MEGABYTES, f"{taken:,.0f} MB"

    one()


def _over_time(*_):
    raise OverTime(f"over {SECONDS} s")


@st.composite
def damaged(draw, contents):
    """One of `contents`, bytes, with up to five of them changed, or cut, or with others put in."""
    content = bytearray(draw(st.sampled_from(contents)))
    for _ in range(draw(st.integers(1, 5))):
        place = draw(st.integers(0, max(len(content) - 1, 0)))
        kind = draw(st.sampled_from(["change", "change", "change", "cut", "put"]))
        if kind == "cut":
            del content[place : place + draw(st.sampled_from([1, 4, len(content)]))]
        elif kind == "put":
            content[place:place] = draw(st.binary(max_size=9))
        elif content:
            content[place] = draw(st.integers(0, 255))
    return bytes(content)
