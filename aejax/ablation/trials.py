"""The trials of an ablation, read from folders of workdirs: in what they differ, and what each has reached."""

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from aejax import config as config_lib
from aejax.ablation.plan import short
from aejax.errors import InputError, StorageError, printable
from aejax.files import inside, local, read_json
from aejax.workdir import metrics_log
from aejax.workdir.lifecycle import is_stale, read_end
from aejax.workdir.saved_config import FREE

PLAN = "sweep.json"
ABSENT = "-"
_MOST_AXES = 6  # runs that differ in more are distinguished by their names
_NO_AXES = ("seed", *FREE)


class Trial(NamedTuple):
    """A run of an ablation.

    Attributes:
      name: of the run, unique.
      config: by dotted key.
      steps: done at the last validation.
      metrics: at the chosen step, e.g. "validation/loss"; those of evaluations, e.g. "likelihood/elbo".
      history: the records of metrics.jsonl.
      problem: why the run does not count; "" where it does.
    """

    name: str
    config: dict[str, Any]
    steps: int = 0
    metrics: Mapping[str, float] = MappingProxyType({})
    history: Sequence[Mapping[str, Any]] = ()
    problem: str = ""

    @property
    def seed(self) -> int:
        return self.config.get("seed", 0)


class Setting(NamedTuple):
    """Runs that differ only in their seed.

    Attributes:
      label: the values of the axes in words.
      values: by axis.
      config: by dotted key; that of all its runs, except for the seed.
      trials: those that count, by seed.
      planned: the number of runs that there are or should be.
    """

    label: str
    values: dict[str, Any]
    config: dict[str, Any]
    trials: dict[int, Trial]
    planned: int

    def of(self, metric: str) -> dict[int, float]:
        """Returns the metric by seed, where it was measured."""
        return {seed: t.metrics[metric] for seed, t in sorted(self.trials.items()) if metric in t.metrics}


class Ablation(NamedTuple):
    """Runs and what is needed to compare them.

    Attributes:
      keys: of the config, in which the runs differ, in the order of the plan.
      axes: the same keys; ("run",) where they are too many.
      settings: in the order of the plan.
      trials: all runs, including those that do not count.
      config: that the plan starts from, by dotted key; without a plan, the config of the first run.
      default: the setting with the config of the plan; None where there is none.
      notes: what was left out, and why, a line each.
    """

    keys: tuple[str, ...]
    axes: tuple[str, ...]
    settings: list[Setting]
    trials: list[Trial]
    config: dict[str, Any]
    default: Setting | None
    notes: list[str]

    @property
    def metrics(self) -> list[str]:
        """Returns all metrics that some run has."""
        return list(dict.fromkeys(m for s in self.settings for t in s.trials.values() for m in t.metrics))


def collect(folders: Sequence[str | Path], at: str = "last") -> Ablation:
    """Reads the runs of all folders, each a workdir or a folder of workdirs.

    Args:
      at: "last", the newest validation, or "best", the one with the smallest loss.

    Raises InputError where a folder holds no runs, or no run is finished, and StorageError where a file is damaged.
    """
    trials: list[Trial] = []
    plans: list[dict[str, Any]] = []
    notes: list[str] = []
    for folder in map(local, folders):
        found, plan, others = _read(folder, at)
        several = len(folders) > 1 and not _is_run(folder)
        trials += [t._replace(name=f"{folder.name}/{t.name}") if several else t for t in found]
        plans += [plan] if plan else []
        notes += others
    names = [t.name for t in trials]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"two runs have the name {twice[0]!r}; give each folder once, or rename one")
    base = _flat(plans[0]["config"]) if plans else None
    planned = [key for plan in plans for run in plan["runs"] for key in _flat(run["overrides"])]
    keys = _axes([t.config for t in trials], planned)
    trials = _without_repeats(trials, keys)
    if all(t.problem for t in trials):
        raise InputError(f"no run is finished: {trials[0].name}: {trials[0].problem}; wait for it, or start it again")
    axes = keys if len(keys) <= _MOST_AXES else ("run",)
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(_key(trial.config, keys), []).append(trial)
    settings = {key: _setting(group, axes) for key, group in groups.items()}
    default = settings.get(_key(base, keys)) if base else None
    if "data.train" in keys and not trials[0].config.get("data.validation"):
        notes.append("data.train differs, and so do the validation examples taken from it; set data.validation")
    notes += [f"{t.name}: {t.problem}; not counted" for t in trials if t.problem]
    for t in trials:
        infinite = {name: value for name, value in t.metrics.items() if not math.isfinite(value)}
        notes += [f"{t.name}: {name} is {value}" for name, value in infinite.items() if not t.problem]
    return Ablation(keys, axes, list(settings.values()), trials, base or trials[0].config, default, notes)


def show(value: object) -> str:
    """Returns a value of a config in words."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return ", ".join(map(show, value)) or "none"
    return str(value)


def _is_run(folder: Path) -> bool:
    return (folder / "config.json").exists()


def _read(folder: Path, at: str) -> tuple[list[Trial], dict[str, Any] | None, list[str]]:
    """Returns the runs of a folder, its plan, if it has one, and notes on runs outside the plan."""
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; give the --workdir of a sweep, or a folder of workdirs")
    if _is_run(folder):
        return [_trial(folder, {}, at)], None, []
    runs = {f.name: f for f in sorted(folder.iterdir()) if _is_run(f)}
    if not (folder / PLAN).exists():
        if not runs:
            raise InputError(f"{folder} holds no runs; give a folder whose folders are workdirs")
        failed = {f.name: why for f in sorted(folder.iterdir()) if f.name not in runs and (why := read_end(f))}
        notes = [f"{printable(name)}: {why}; not counted" for name, why in failed.items()]
        return [_trial(f, {}, at) for f in runs.values()], None, notes
    plan = read_json(folder / PLAN)
    listed = plan.get("runs") if isinstance(plan.get("runs"), list) else []
    if not (listed and isinstance(plan.get("config"), dict) and all(map(_is_planned, listed))):
        raise InputError(f"{folder / PLAN} is no plan with a config and runs; start the sweep again")
    base = _flat(plan["config"])
    trials = [_trial(inside(folder, r["name"]), _planned(base, r["overrides"]), at) for r in plan["runs"]]
    others = sorted({printable(name) for name in runs} - {t.name for t in trials})
    return trials, plan, [f"{name}: not in {PLAN}; not counted" for name in others]


def _is_planned(run: Any) -> bool:
    """Returns whether an entry of a plan has overrides and the name of a folder next to the plan."""
    if not (isinstance(run, dict) and isinstance(run.get("name"), str) and isinstance(run.get("overrides"), dict)):
        return False
    return bool(run["name"]) and Path(run["name"]).name == run["name"] and "\0" not in run["name"]


def _planned(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the flat config of a planned run; a mapping replaces a whole section."""
    replaced = tuple(f"{key}." for key, value in overrides.items() if isinstance(value, Mapping))
    return {key: value for key, value in base.items() if not key.startswith(replaced)} | _flat(overrides)


def _trial(folder: Path, planned: dict[str, Any], at: str) -> Trial:
    """Returns the run of a workdir, or the planned one where there is no workdir yet."""
    name = printable(folder.name)
    if not _is_run(folder):
        return Trial(name, planned, problem=read_end(folder) or "not started")
    config = _flat(read_json(folder / "config.json"))
    numbers = (config.get("seed", 0), config.get("patience", 0), config.get("steps"))
    if not all(isinstance(number, int) for number in numbers):
        raise InputError(f"{folder / 'config.json'} is no config of a run; give folders that hold runs alone")
    history = metrics_log.read(folder)
    validated = [r for r in history if "validation/loss" in r]
    steps = validated[-1]["step"] if validated else 0  # losses of later steps may exist without their validation
    if why := read_end(folder):
        return Trial(name, config, steps, {}, history, f"{why} (step {steps:,} of {config['steps']:,})")
    if steps < config["steps"] and not is_stale(validated, config.get("patience", 0)):
        return Trial(name, config, steps, {}, history, f"unfinished, step {steps:,} of {config['steps']:,}")
    chosen = validated[-1] if at == "last" else min(validated, key=lambda r: r["validation/loss"])
    metrics = {k: v for r in history if r["step"] == chosen["step"] for k, v in r.items() if k != "step"}
    return Trial(name, config, steps, metrics | _evaluated(folder, chosen["step"]), history)


def _evaluated(folder: Path, step: int) -> dict[str, float]:
    """Returns the metrics of an evaluation of this step on the test split, as group/name."""
    file = folder / "evaluation" / str(step) / "metrics.json"
    try:
        groups = read_json(file) if file.exists() else {}
        found = {f"{g}/{name}": m.get("value") for g, measures in groups.items() for name, m in measures.items()}
        if not "".join(found).isprintable():
            raise StorageError(f"{file} has names that cannot be printed")
    except (StorageError, AttributeError) as error:
        warnings.warn(f"{file} is damaged ({error}) and left out; evaluate the run again", stacklevel=2)
        return {}
    return {name: value for name, value in found.items() if isinstance(value, int | float)}


def _axes(configs: Sequence[Mapping[str, Any]], planned: Sequence[str]) -> tuple[str, ...]:
    """Returns the keys in which configs differ, those of the plans first."""
    keys = dict.fromkeys([*planned, *(k for c in configs for k in c)])
    return tuple(k for k in keys if k not in _NO_AXES and len({_key(c, [k]) for c in configs}) > 1)


def _key(config: Mapping[str, Any], keys: Sequence[str]) -> str:
    """Returns the values of these keys as one text; a plan may say 1 where the config has 1.0."""
    values = [config.get(k, ABSENT) for k in keys]
    # A config may come from anyone: float() refuses integers of more than 308 digits.
    return json.dumps([float(v) if type(v) is int and abs(v) < 2**53 else v for v in values])


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values by dotted key, with texts that can be printed, written and drawn."""
    return {printable(key): _printable(value) for key, value in config_lib.flatten(values)}


def _printable(value: Any) -> Any:
    if isinstance(value, list):
        return [_printable(part) for part in value]
    return printable(value) if isinstance(value, str) else value


def _without_repeats(trials: Sequence[Trial], keys: Sequence[str]) -> list[Trial]:
    """Returns the trials, those marked that repeat the setting and the seed of another."""
    first: dict[str, str] = {}
    marked = []
    for t in trials:
        same = None if t.problem else first.setdefault(_key(t.config, [*keys, "seed"]), t.name)
        marked.append(t if same in (None, t.name) else t._replace(problem=f"the same setting and seed as {same}"))
    return marked


def _setting(group: Sequence[Trial], axes: tuple[str, ...]) -> Setting:
    names = short(axes)
    values = {a: group[0].name if a == "run" else group[0].config.get(a, ABSENT) for a in axes}
    label = ", ".join(show(v) if a == "run" else f"{names[a]}={show(v)}" for a, v in values.items())
    counted = {t.seed: t for t in group if not t.problem}
    planned = len({t.seed for t in group})
    return Setting(label or group[0].name, values, group[0].config, counted, planned)
