"""What a run remembers of its data, so that other data under the same name is noticed."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from aejax.data.sources import Source
from aejax.errors import InputError

_DRAWN = 16  # examples of a part whose values are remembered


def identity(parts: Mapping[str, Source], labels: bool = False) -> dict[str, Any]:
    """Returns, for each part, its number of examples, their shape and a few of their values, as JSON holds them.

    A value is a weighted mean of one example; `labels` adds the examples' labels. Of the test part no values are
    read: it would be decoded for nothing else.
    """
    found: dict[str, Any] = {}
    for part, source in parts.items():
        found[part] = {"examples": len(source), "shape": list(source.shape), "kind": source.dtype.kind}
        if part != "test":
            drawn = source.drawn(_DRAWN)
            arrays = drawn.take(np.arange(len(drawn)))
            x = arrays["x"].reshape(len(drawn), -1).astype(np.float64)
            found[part]["values"] = (x @ np.random.default_rng(0).random(x.shape[1]) / x.shape[1]).tolist()
            if labels and "label" in arrays:
                found[part]["labels"] = arrays["label"].tolist()
    return found


def check_identity(trained_on: Mapping[str, Any] | None, parts: Mapping[str, Source], what: str, cure: str) -> None:
    """Raises InputError where the parts are not what a run was trained on, by its `identity`.

    Runs from before there were identities have None, and pass.
    """
    if not trained_on:
        return
    now = identity(parts, any("labels" in part for part in trained_on.values()))
    differ = [f"{part} {how}" for part in now if (how := _difference(trained_on.get(part, {}), now[part]))]
    if differ:
        raise InputError(f"{what} was trained on other data ({'; '.join(differ)}); {cure}")


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    for key, noun in (("examples", "examples"), ("shape", "as their shape"), ("kind", "as their kind of numbers")):
        if old.get(key) != new[key]:
            return f"had {old.get(key)} {noun}, now {new[key]}"
    # Images are decoded a little differently by other versions of a decoder.
    if not _close(old.get("values", ()), new.get("values", ()), 2 if new["kind"] == "u" else 0):
        return "has other values"
    if old.get("labels", new.get("labels")) != new.get("labels"):
        return "has other labels"
    return ""


def _close(old: Sequence[float], new: Sequence[float], atol: float) -> bool:
    return len(old) == len(new) and np.allclose(old, new, rtol=1e-6, atol=atol)
