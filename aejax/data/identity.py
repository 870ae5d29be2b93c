"""Identity of data: what a run remembers of its splits, so that other data under the same name is noticed."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from aejax.data.sources import Source
from aejax.errors import InputError

_SAMPLES = 16  # examples of each split whose values are remembered


def identify(parts: Mapping[str, Source], labels: bool = False) -> dict[str, Any]:
    """Returns the identity of each part: its number of examples, their shape, and values of a few of them, for JSON.

    A value is a weighted mean of one example; `labels` adds the examples' labels. The test part has no values, because
    it would be decoded for nothing else.
    """
    found: dict[str, Any] = {}
    for part, source in parts.items():
        found[part] = {"examples": len(source), "shape": list(source.shape), "kind": source.dtype.kind}
        if part == "test":
            continue
        samples = source.sample(_SAMPLES)
        arrays = samples.take(np.arange(len(samples)))
        x = np.nan_to_num(arrays["x"].reshape(len(samples), -1).astype(np.float64))
        found[part]["values"] = (x @ np.random.default_rng(0).random(x.shape[1]) / x.shape[1]).tolist()
        if "target" in arrays:
            found[part]["values"] += arrays["target"].reshape(len(samples), -1).mean(1, np.float64).tolist()
        if labels and "label" in arrays:
            found[part]["labels"] = arrays["label"].tolist()
    return found


def check_identity(trained_on: Mapping[str, Any] | None, parts: Mapping[str, Source], what: str, cure: str) -> None:
    """Raises InputError if the parts differ from the identity that a run was trained on.

    `what` names the run and `cure` says what to do. None, from runs older than identities, passes.
    """
    if not trained_on:
        return
    now = identify(parts, any("labels" in part for part in trained_on.values()))
    differ = [f"{part} {how}" for part in now if (how := _describe_difference(trained_on.get(part, {}), now[part]))]
    if differ:
        raise InputError(f"{what} was trained on other data ({'; '.join(differ)}); {cure}")


def _describe_difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Returns what differs between two identities of a part, "" if nothing does."""
    for key, noun in (("examples", "examples"), ("shape", "as their shape"), ("kind", "as their kind of numbers")):
        if old.get(key) != new[key]:
            return f"had {old.get(key)} {noun}, now {new[key]}"
    before, after = old.get("values", ()), new.get("values", ())
    atol = 2 if new["kind"] == "u" else 0  # versions of an image decoder differ a little
    if len(before) != len(after) or not np.allclose(before, after, rtol=1e-6, atol=atol):
        return "has other values"
    if old.get("labels", new.get("labels")) != new.get("labels"):
        return "has other labels"
    return ""
