"""Variables of a model chosen by patterns of their paths, e.g. encoder/dense_0/kernel.

A pattern is a regular expression that matches a path from its beginning: `encoder/` stands for all of the encoder,
`.*/bias` for every bias.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flax.traverse_util import flatten_dict, unflatten_dict

from aejax.errors import InputError


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the leaves of nested dicts by path."""
    return flatten_dict(tree, sep="/")


def nest(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Returns nested dicts of leaves by path, the inverse of `flatten`."""
    return unflatten_dict(dict(leaves), sep="/")


def is_chosen(path: str, patterns: Iterable[str]) -> bool:
    """Returns whether one of the patterns matches the path from its beginning."""
    return any(re.match(pattern, path) for pattern in patterns)


def split(tree: Mapping[str, Any], patterns: Sequence[str]) -> tuple[Any, Any]:
    """Returns the tree without the leaves that a pattern matches, and a tree of these."""
    if not patterns:
        return tree, {}
    leaves = flatten(tree)
    chosen = {path: leaf for path, leaf in leaves.items() if is_chosen(path, patterns)}
    return nest({path: leaf for path, leaf in leaves.items() if path not in chosen}), nest(chosen)


def merge(tree: Mapping[str, Any], more: Mapping[str, Any]) -> Any:
    """Returns the tree with the leaves of `more` in the places of its own, or beside them."""
    return nest({**flatten(tree), **flatten(more)}) if more else tree


def check_patterns(key: str, patterns: Sequence[str], paths: Iterable[str]) -> None:
    """Raises InputError, which names the config's `key`, for a pattern that matches none of the paths."""
    known = sorted(set(paths))
    for pattern in patterns:
        if not any(is_chosen(path, [pattern]) for path in known):
            shown = [*known[:2], "...", *known[-2:]] if len(known) > 5 else known
            raise InputError(f"{key}: {pattern!r} matches none of the variables' paths, e.g. {', '.join(shown)}")
