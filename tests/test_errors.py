"""The words of errors: one line, of bounded length, whatever the value is."""

import numpy as np
import pytest

from aejax.errors import InputError, in_one_line, kind_and_words, shown


@pytest.mark.parametrize("length", [0, 99, 100, 101, 10_000])
def test_a_value_is_shown_whole_up_to_a_hundred_characters(length):
    class Long:
        def __repr__(self):
            return "a" * length

    assert shown(Long()) == ("a" * length if length <= 100 else "a" * 100 + "...")


def test_a_value_is_shown_in_one_line():
    assert shown(np.eye(2)) == "array([[1., 0.], [0., 1.]])"
    assert shown("a\nb") == r"'a\nb'"
    assert shown(10**5000) == "a value of int"  # which Python does not write


def test_errors_of_others_say_their_class():
    assert in_one_line(InputError("a\n  b")) == r"a\n b"
    assert in_one_line(ValueError("a")) == "ValueError('a')"
    assert kind_and_words(ValueError("a\n" + 300 * "b")) == "ValueError: a " + 198 * "b"
