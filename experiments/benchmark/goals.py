"""Goals and whether they are reached: goals/speed.json and its like, to which each command adds its own figures."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aejax.files import read_bytes, writable, write_whole

Goal = dict[str, Any]


def at_least(figure: str, value: float, goal: float) -> Goal:
    """Returns the entry of a figure that is to be as large as its goal."""
    return {"figure": figure, "value": value, "goal": goal, "reached": value >= goal}


def at_most(figure: str, value: float, goal: float) -> Goal:
    """Returns the entry of a figure that is to be as small as its goal."""
    return {"figure": figure, "value": value, "goal": goal, "reached": value <= goal}


def write(folder: Path, command: str, goals: Sequence[Goal], name: str = "speed.json") -> None:
    """Replaces the entries of the command in `folder`/goals/`name`, and keeps those of other commands."""
    file = writable(folder / "goals") / name
    known = json.loads(read_bytes(file)) if file.exists() else []
    entries = [entry for entry in known if entry["command"] != command] + [
        {**goal, "command": command} for goal in goals
    ]
    write_whole(file, json.dumps(sorted(entries, key=lambda entry: entry["command"]), indent=2) + "\n")
