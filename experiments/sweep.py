"""Runs an ablation: python -m experiments.sweep --config=configs/vae.py --workdir=runs/ablation

The runs are those that `sweep(add)` of the config file adds, or a grid:

    python -m experiments.sweep --config=configs/vae.py --workdir=runs/ablation \\
        --sweep.bottleneck.features=2,8,32 --sweep.optim.lr=1e-3,1e-4 --seeds=3

Each has its own folder in the workdir, named by what differs, where `experiments.train` would go on with it. The
same command skips what is finished, goes on with what is not, and tells at the end what failed and why.
"""

import functools
import json
import runpy
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

import aejax
from aejax import config as config_lib
from aejax import data, logs
from aejax.ablation.plan import Overrides, Planned, added, grid, plan, to_json, values
from aejax.storage import writable
from aejax.train import is_finished
from experiments import main

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Config file, e.g. configs/vae.py or configs/vae.py:tiny; what it is set to holds for all runs.",
    lock_config=False,
    accept_new_attributes=True,
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of all runs.")
_SEEDS = flags.DEFINE_integer("seeds", 1, "Runs of each setting, from the config's seed on.", lower_bound=1)
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print the runs and what is left of them, and do nothing.")
_ONLY = flags.DEFINE_list("only", [], "Names of the runs to do; all unless told.")
flags.mark_flags_as_required(["config", "workdir"])


def take_axes(argv: list[str]) -> dict[str, list[Any]]:
    """Takes each --sweep.KEY=VALUES out of argv; the values by key."""
    axes: dict[str, list[Any]] = {}
    for argument in [a for a in argv if a.startswith(("--sweep.", "-sweep."))]:
        argv.remove(argument)
        key, equals, text = argument.lstrip("-").removeprefix("sweep.").partition("=")
        if not equals or key in axes:
            problem = "is given twice" if equals else "has no values"
            raise aejax.InputError(f"--sweep.{key} {problem}; write --sweep.{key}=value,value")
        axes[key] = values(text)
    return axes


def overrides(axes: dict[str, list[Any]], file: str) -> list[Overrides]:
    """Of the grid, or of `sweep(add)` in the config file."""
    if axes:
        return grid(axes)
    sweep_of_config = runpy.run_path(file.partition(":")[0]).get("sweep")
    return added(sweep_of_config) if sweep_of_config else []


def status(workdir: Path, run: Planned) -> str:
    """Finished, interrupted or new; InputError where its folder holds a run of another config."""
    if not (workdir / run.name).exists():
        return "new"
    return "finished" if is_finished(run.config, workdir / run.name) else "interrupted"


def run_all(runs: Sequence[Planned], workdir: Path, asked: Callable[[], bool]) -> dict[str, str]:
    """Trains one after the other; returns the errors by name. What fails does not stop the rest."""

    @functools.cache  # the newest alone would do, but a sweep over data sets comes back to each
    def loaded(section: str) -> data.Splits:
        return data.load(ConfigDict(json.loads(section)))

    errors: dict[str, str] = {}
    for i, run in enumerate(runs, 1):
        head, folder, begin = f"[{i}/{len(runs)}] {run.name}", workdir / run.name, time.monotonic()
        print(f"{head} ...", file=sys.stderr)
        try:
            splits = loaded(config_lib.to_json(run.config.data))
            done = aejax.train(run.config, folder, data=splits, stop=asked, quiet=True)
        except aejax.StoppedError:
            break
        except Exception as error:
            errors[run.name] = " ".join(f"{error if isinstance(error, aejax.AejaxError) else repr(error)}".split())
            print(f"{head}: failed: {errors[run.name]}", flush=True)
            if not isinstance(error, aejax.AejaxError):
                writable(folder).joinpath("error.txt").write_text(traceback.format_exc())
            continue
        losses = [r["validation/loss"] for r in logs.read(folder) if "validation/loss" in r]
        loss = f", validation loss {losses[-1]:.5g}" if losses else ""
        print(f"{head}: step {done.step:,}{loss}, {time.monotonic() - begin:.0f} s", flush=True)
        if asked():
            break
    return errors


def sweep(axes: dict[str, list[Any]]) -> None:
    config, workdir = main.loaded(_CONFIG.value), Path(_WORKDIR.value)
    runs = plan(config, overrides(axes, config_flags.get_config_filename(flags.FLAGS["config"])), _SEEDS.value)
    for name in _ONLY.value:
        if name not in [run.name for run in runs]:
            raise aejax.errors.one_of("--only", name, [run.name for run in runs])
    listed = [run for run in runs if run.name in _ONLY.value or not _ONLY.value]
    stands = {run.name: status(workdir, run) for run in listed}
    if _DRY_RUN.value:
        print("\n".join(f"{name:<{max(map(len, stands))}}  {stand}" for name, stand in stands.items()))
        return
    writable(workdir).joinpath("sweep.json").write_text(to_json(config, runs))
    left = [run for run in listed if stands[run.name] != "finished"]
    if len(left) < len(listed):
        print(f"{len(listed) - len(left)} of {len(listed)} runs are finished already")
    with main.until_signal() as asked:
        errors = run_all(left, workdir, asked)
    if asked():
        print("stopped; the same command goes on from here")
    if errors:
        lines = "".join(f"\n  {name}: {error}" for name, error in errors.items())
        raise aejax.AejaxError(f"{len(errors)} of {len(listed)} runs failed; the same command tries them again:{lines}")


if __name__ == "__main__":
    axes: dict[str, list[Any]] = {}
    main.run(lambda: sweep(axes), before=lambda argv: axes.update(take_axes(argv)))
