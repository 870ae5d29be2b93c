"""Hyperparameter search: aejax search --config=vae --workdir=runs/search

`search(trial)` in the config file takes an Optuna trial and returns overrides by dotted key, e.g.
`{"optim.lr": trial.suggest_float("lr", 1e-4, 1e-2, log=True)}`. Each trial trains in a folder of its own, e.g.
trial_007, which `aejax compare` reads. A trial that is worse than the median at a validation ends there.

--trials counts all trials of the study. The same command resumes the study, and an unfinished trial from its
checkpoint, and does nothing when all trials are finished. Several commands at once share the trials. The command needs
the extra `optuna`.
"""

import contextlib
import json
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags
from ml_collections import ConfigDict, config_flags

import aejax
from aejax import config as config_lib
from aejax.cli import command
from aejax.cli.config_flag import config_flag
from aejax.config_files import find_function
from aejax.errors import in_one_line
from aejax.files import inside, local, writable
from aejax.workdir import saved_config

if TYPE_CHECKING:
    from aejax import data
    from aejax.ablation.plan import Overrides
    from aejax.ablation.study import Study

_CONFIG = config_flag("config", "Config of all trials, with search(trial): a name, e.g. vae, or a file of your own.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the study and of all trials.", required=True)
_TRIALS = flags.DEFINE_integer("trials", 20, "Trials of the study, finished ones included.", lower_bound=1)
_SEED = flags.DEFINE_integer(
    "seed", 0, "Seed of the suggestions. The trials train with the config's seed.", lower_bound=0
)
_OBJECTIVE = flags.DEFINE_string(
    "objective", "validation/loss", "Metric of a validation, by its name in metrics.jsonl."
)
_PRUNE = flags.DEFINE_bool("prune", True, "End a trial that is worse than the median of the others at a validation.")


def folder_of(workdir: Path, number: int) -> Path:
    return inside(workdir, f"trial_{number:03d}")


def direction(objective: str, keys: list[str]) -> str:
    """Returns Optuna's name for the better direction. Raises InputError if there is none or `keys` redefine it."""
    from aejax.ablation import statistics

    if changed := statistics.redefined(objective, keys):
        other = "validation/squared_error"
        choose = "" if statistics.redefined(other, changed) else f"choose --objective={other}, or "
        raise aejax.InputError(
            f"{objective} means something else for each {' and '.join(changed)}, which search(trial) sets; {choose}"
            "leave them out"
        )
    better = statistics.direction(objective)
    if not objective.startswith("validation/") or not better:
        known = [f"validation/{name}" for name in statistics.LOWER | statistics.HIGHER]
        raise aejax.errors.one_of("--objective", objective, known)
    return "maximize" if better > 0 else "minimize"


def validations(folder: Path, objective: str) -> dict[int, float]:
    """Returns the objective by step."""
    from aejax.workdir import metrics_log

    records = [record for record in metrics_log.read(folder) if "validation/loss" in record]
    for record in records:
        if objective not in record:
            known = ", ".join(key for key in record if key != "step")
            raise aejax.AejaxError(f"no validation has --objective={objective}; choose one of: {known}")
    return {record["step"]: record[objective] for record in records}


def reports(trial: Any, told: set[int], folder: Path, objective: str) -> Callable[[], bool]:
    """Returns a function that tells whether to prune the trial, and reports validations except at the steps `told`."""
    from aejax.workdir.metrics_log import METRICS

    enough: bool | None = None
    read = -1  # bytes of the file, which grows far less often than this is called

    def ask() -> bool:
        nonlocal enough, read
        file = folder / METRICS
        size = file.stat().st_size if file.exists() else 0
        if enough is not None and size == read:
            return enough
        read = size
        new = {step: value for step, value in validations(folder, objective).items() if step not in told}
        for step, value in new.items():
            trial.report(value, step)
        told.update(new)
        if new or enough is None:
            enough = trial.should_prune()
        return enough

    return ask


def run_trial(
    study: "Study",
    trial: Any,
    config: ConfigDict,
    folder: Path,
    search: "Callable[[Any], Overrides]",
    load: "Callable[[ConfigDict], data.Splits]",
    asked: Callable[[], bool],
) -> str:
    """Trains the trial and tells the study its result. Returns the result as text, or "" if asked to stop."""
    from aejax.ablation.plan import overridden
    from aejax.workdir.lifecycle import is_finished, record_end

    objective, begin = _OBJECTIVE.value, time.monotonic()
    try:
        given = search(trial)
        trial.set_user_attr("overrides", config_lib.to_dict(given))
        planned = overridden(config, given)
        pruned = reports(trial, set(study.trials[trial.number].intermediate_values), folder, objective)
        if not is_finished(planned, folder) and not pruned():
            aejax.train(planned, folder, data=load, stop=lambda: pruned() or asked(), quiet=True)
        finished, found = is_finished(planned, folder), validations(folder, objective)
        if not finished and not pruned():
            return ""
        last, value = max(found.items())
    except aejax.DivergedError as error:
        study.tell(trial, pruned=f"failed: {error}")  # the worst value, so that later trials keep away from it
        return f"failed: {error}"
    except (aejax.StoppedError, aejax.StorageError, BrokenPipeError):
        raise
    except Exception as error:
        if type(error) is aejax.AejaxError:  # about the objective, the same for every trial
            raise
        why = f"failed: {in_one_line(error)}"
        study.tell(trial, failed=why)
        return why
    if finished:
        pruned()  # reports the last validation
        study.tell(trial, value=value)
        return f"{objective} {value:.5g}, {time.monotonic() - begin:.0f} s"
    why = f"pruned: {objective} {value:.5g}"
    record_end(folder, why)
    study.tell(trial, pruned=why)
    return f"{why} at step {last:,}, {time.monotonic() - begin:.0f} s"


def again(trial: Any, folder: Path, out: Path) -> str:
    """Returns the command that trains a trial's config again, in `out`."""
    flag = flags.FLAGS["config"]
    overrides = trial.user_attrs["overrides"]
    if any(isinstance(value, Mapping) for value in overrides.values()):  # a flag cannot take keys out of a section
        code = f"import aejax; aejax.train(aejax.load_run({str(folder)!r}).config, {str(out)!r})"
        return shlex.join(["python", "-c", code])
    values = {**config_flags.get_override_values(flag), **overrides}
    shown = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    config = f"--config={config_flags.get_config_filename(flag)}"
    return shlex.join(["aejax", "train", config, *(f"--config.{k}={v}" for k, v in shown.items()), f"--workdir={out}"])


def summary(study: "Study", workdir: Path) -> str:
    """Returns the best trial and how to train it again, the number of trials by result, and why some failed."""
    trials, best = study.trials, study.best
    reasons = {t.number: t.user_attrs.get("why", "") for t in trials}
    failed = {number: why for number, why in reasons.items() if why.startswith("failed: ")}
    counts = {state: sum(t.state.name == state for t in trials) for state in ("COMPLETE", "PRUNED", "FAIL", "RUNNING")}
    shown = ", ".join(f"{count} {name.lower()}" for name, count in counts.items() if count)
    lines = [f"{len(trials)} trials: {shown}", *(f"  {folder_of(workdir, n).name}: {why}" for n, why in failed.items())]
    if best is None:
        raise aejax.AejaxError("no trial is complete; " + "\n".join(lines))
    folder = folder_of(workdir, best.number)
    values = "".join(f"\n  {key}={value}" for key, value in best.user_attrs["overrides"].items())
    lines += [
        f"the best, {_OBJECTIVE.value} {best.value:.5g}: {folder}{values}",
        "to train it again:",
        again(best, folder, workdir.with_name(f"{workdir.name}_best")),
    ]
    return "\n".join(lines)


def search() -> None:
    from aejax.ablation.plan import overridden
    from aejax.ablation.study import Study, tried

    with contextlib.suppress(ImportError):  # which the study explains
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
    config, workdir, objective = _CONFIG.value, local(_WORKDIR.value).absolute(), _OBJECTIVE.value
    file = config_flags.get_config_filename(flags.FLAGS["config"])
    search_of_config = find_function(file, "search")
    if search_of_config is None:
        raise aejax.InputError(f"{file} has no search(trial); write one as in configs/vae.py")
    given = tried(search_of_config)
    config = config_lib.from_dict(config.copy_and_resolve_references().to_dict())
    overridden(config, given)  # raises before any trial starts
    way = direction(objective, [key for key, _ in config_lib.flatten(given)])
    load = command.loads_once()
    load(config.data)
    fixed = {
        key: value for key, value in config_lib.flatten(config_lib.to_dict(config)) if key not in saved_config.FREE
    }
    about = {"config": json.dumps(fixed), "objective": objective}
    opened = Study(writable(workdir), way, about, seed=_SEED.value, prune=_PRUNE.value)
    with opened as study, command.until_signal() as asked:
        while not asked() and (trial := study.claim(_TRIALS.value)):
            folder = folder_of(workdir, trial.number)
            print(f"{folder.name} ...", file=sys.stderr)
            done = run_trial(study, trial, config, folder, search_of_config, load, asked)
            if done:
                print(f"{folder.name}: {done}", flush=True)
        if asked():
            raise aejax.StoppedError("stopped; the same command resumes")
        print(summary(study, workdir))


def main() -> None:
    command.run(search)
