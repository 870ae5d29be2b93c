"""That the door of the other property tests notices what it is to notice."""

import time
import warnings

import door
import numpy as np
import pytest
from hypothesis import strategies as st


def raises(error):
    raise error


@pytest.mark.parametrize(
    "case",
    [
        lambda: np.ones(2**25),  # 256 MiB, let go of at once
        lambda: time.sleep(2),
        lambda: warnings.warn(f"{1}\n{2}", stacklevel=1),
        lambda: raises(TypeError("of somebody else")),
        lambda: warnings.warn("for developers", RuntimeWarning, stacklevel=1),
    ],
)
def test_what_is_over_time_or_memory_or_told_otherwise_fails(monkeypatch, case):
    monkeypatch.setattr(door, "SECONDS", 1)
    monkeypatch.setattr(door, "MEGABYTES", 200)
    large = np.ones(2**26)  # what was there before is no excuse
    del large
    with pytest.raises((AssertionError, TypeError, RuntimeWarning, door.OverTime)):
        door.try_all(1, lambda x: case(), x=st.just(0))
