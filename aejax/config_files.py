"""Config files, by their path or, of those that ship with aejax, by their name, e.g. vae or vae:tiny."""

import difflib
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from aejax.errors import InputError
from aejax.files import local


def load_config(name: str) -> ConfigDict:
    """Returns the config that `--config=NAME` of a command means, e.g. of "conv", "sae:topk" or "mine.py:tiny".

    The config is locked, so that a key that it lacks raises; `with config.unlocked():` adds one. What follows the colon
    is the argument of the file's `get_config`. The file is executed.

    Raises InputError if there is no such config or file, or the file has no `get_config`.
    """
    file, argument = find_config(name), name.partition(":")[2]
    get_config = find_function(name, "get_config")
    if not callable(get_config):
        raise InputError(f"{file} has no function get_config; define get_config(arg) that returns the config")
    config = get_config(argument) if ":" in name else get_config()
    if not isinstance(config, ConfigDict):
        raise InputError(
            f"get_config of {file} returned {type(config).__name__}; return a config that starts from default()"
        )
    return config


def find_function(value: str, name: str) -> Callable[..., Any] | None:
    """Returns a function that a config file defines beside its config, or None where it has no such function."""
    return runpy.run_path(str(find_config(value))).get(name)


def find_config(value: str, folder: str = "") -> Path:
    """Returns the file that a path or a name means, without what follows a colon; names are those in `folder`."""
    text = value.partition(":")[0]
    package, file = Path(__file__).parent, local(text)
    # In a clone the configs are beside the package.
    home = package if (package / "configs").is_dir() else package.parent
    names = {path.stem: path for path in (home / "configs" / folder).glob("*.py") if path.stem != "common"}
    if file.is_file():
        return file
    if text.isidentifier():
        if text not in names:
            near = difflib.get_close_matches(text, names, 1)
            choice = f"did you mean {near[0]!r}?" if near else f"choose one of: {', '.join(sorted(names))}"
            raise InputError(f"no config is called {text!r}; {choice}")
        return names[text]
    ships = f"write {file.stem} for the config that ships with aejax" if file.stem in names else "check its path"
    raise InputError(f"there is no such file; {ships}")
