r"""Ablation of a config: aejax sweep --config=vae --workdir=runs/ablation

The runs are what `sweep(add)` in the config file adds, or a grid:

    aejax sweep --config=vae --workdir=runs/ablation \
        --sweep.bottleneck.features=2,8,32 --sweep.optim.lr=1e-3,1e-4 --seeds=3

Each run has its own workdir, a folder in --workdir named by the keys in which the runs differ. The same command skips
finished runs, resumes the others, and at the end lists the runs that failed and why.

Runs that differ only in their seed and in hyperparameters that are numbers train in one program. --jobs=2 trains in two
processes at a time, which divide the devices of this machine. --executor=slurm submits the processes as jobs.
"""

import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags
from ml_collections import ConfigDict, config_flags

import aejax
from aejax.cli import command
from aejax.cli.config_flag import config_flag
from aejax.cli.launching.flags import executors
from aejax.cli.launching.job import STOPPED, Job
from aejax.config import flatten
from aejax.config_files import find_function
from aejax.files import inside, local, writable, write_whole

if TYPE_CHECKING:
    from aejax import data
    from aejax.ablation.plan import Planned

_CONFIG = config_flag("config", "Config of all runs: a name, e.g. vae or vae:tiny, or a file of your own.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of all runs.", required=True)
_SEEDS = flags.DEFINE_integer(
    "seeds", 1, "Number of runs of each setting, with the config's seed and the following ones.", lower_bound=1
)
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print the runs and the status of each, and train nothing.")
_TOGETHER = flags.DEFINE_integer(
    "together",
    8,
    "Largest number of runs that one program trains if they differ only in their seed and in numbers such as optim.lr. "
    "Convolutional models on CPU and codebooks initialized by k-means always train one after the other.",
    lower_bound=1,
)
_ONLY = flags.DEFINE_list("only", [], "Names of the runs to train. Defaults to all.")
_EXECUTOR = executors()


def take_axes(argv: list[str]) -> dict[str, list[Any]]:
    """Takes each --sweep.KEY=VALUES out of `argv`. Returns the values by key."""
    axes: dict[str, list[Any]] = {}
    for argument in [a for a in argv if a.startswith(("--sweep.", "-sweep."))]:
        argv.remove(argument)
        key, _, text = argument.lstrip("-").removeprefix("sweep.").partition("=")
        if key in axes:
            raise aejax.InputError(f"--sweep.{key} is given twice; write --sweep.{key}=value,value")
        from aejax.ablation.plan import values

        axes[key] = values(text)
    return axes


def find_status(workdir: Path, run: "Planned") -> str:
    """Returns "finished", "interrupted", "new", or "failed: " and why.

    Raises InputError if the run's folder holds a run of another config.
    """
    from aejax.workdir.lifecycle import is_finished, read_end

    folder = inside(workdir, run.name)
    if not folder.exists():
        return "new"
    finished = is_finished(run.config, folder)
    return read_end(folder) or ("finished" if finished else "interrupted")


def group_runs(runs: "Sequence[Planned]", workdir: Path, most: int) -> "list[list[Planned]]":
    """Groups runs that one program can train, at `most` so many per group, in the order of the plan.

    Such runs differ only in their seed and in numbers, and are at the same step.
    """
    from aejax.training.vmapped import identify_program
    from aejax.workdir.checkpoint import list_steps

    alike: dict[tuple[str, int], list[Planned]] = {}
    for run in runs:
        begin = max(list_steps(workdir / run.name), default=0)
        alike.setdefault((identify_program(run.config), begin), []).append(run)
    return [group[i : i + most] for group in alike.values() for i in range(0, len(group), most)]


def train_group(
    runs: "Sequence[Planned]", workdir: Path, load: "Callable[[ConfigDict], data.Splits]", stop: Callable[[], bool]
) -> list[Any]:
    """Trains the runs, together if that is faster. Returns the result of each, or the error that ended it."""
    from aejax.training.vmapped import train_together

    folders, config = [workdir / run.name for run in runs], runs[0].config
    try:
        if len(runs) == 1 or not _better_alone(config, load(config.data)):
            return list(train_together([run.config for run in runs], folders, data=load, stop=stop, quiet=True))
    except (aejax.StoppedError, BrokenPipeError):
        raise
    except Exception as error:
        if len(runs) == 1:
            return [error]
        # One run may have stopped the others, so each is tried alone.
    found: list[Any] = []
    for run in runs:
        if not stop():
            found += train_group([run], workdir, load, stop)
    return found


def _better_alone(config: ConfigDict, splits: "data.Splits") -> bool:
    """Returns whether vmap is several times slower than training one run after the other.

    It is with k-means, which would run at every step, and with convolutions on CPU.
    """
    if any(key.endswith("kmeans") and value for key, value in flatten(config.bottleneck.to_dict())):
        return True
    import jax

    from aejax import data
    from aejax.training.task import make_task

    if jax.default_backend() != "cpu":
        return False
    return make_task(config, data.Spec.of(splits.train, config.data.standardize, config.data.normalize)).convolves


def run_all(runs: "Sequence[Planned]", workdir: Path, asked: Callable[[], bool]) -> dict[str, str]:
    """Trains group after group, even after failures. Returns the errors by name of the run."""
    from aejax.workdir import metrics_log

    load = command.loads_once()
    errors: dict[str, str] = {}
    finished, begin = 0, time.monotonic()
    for group in group_runs(runs, workdir, _TOGETHER.value):
        print(f"training {' '.join(run.name for run in group)} ...", file=sys.stderr)
        try:
            found = train_group(group, workdir, load, asked)
        except aejax.StoppedError:
            break
        for run, done in zip(group, found, strict=False):
            finished += 1
            head = f"[{finished}/{len(runs)}] {run.name}: "
            if isinstance(done, Exception):
                errors[run.name] = aejax.errors.in_one_line(done)
                print(f"{head}failed: {errors[run.name]}", flush=True)
            else:
                losses = [r["validation/loss"] for r in metrics_log.read(workdir / run.name) if "validation/loss" in r]
                loss = f", validation loss {losses[-1]:.5g}" if losses else ""
                print(f"{head}step {done.step:,}{loss}, {time.monotonic() - begin:.0f} s", flush=True)
        if asked():
            break
    return errors


def launch_all(
    runs: "Sequence[Planned]", workdir: Path, asked: Callable[[], bool], argv: Sequence[str]
) -> dict[str, str]:
    """Trains each group in a job, which runs this command with --only. Returns the errors by name of the run."""
    jobs, most = [], _TOGETHER.value
    if flags.FLAGS.executor == "local":  # smaller groups, so that all processes have runs to train
        most = min(most, math.ceil(len(runs) / flags.FLAGS.jobs))
    divided = {group[0].name: group for group in group_runs(runs, workdir, most)}
    logs_folder = inside(workdir, "logs")
    for group in divided.values():
        only = f"--only={','.join(run.name for run in group)}"
        # If a flag is given twice, the last one counts.
        argv_of_job = ("-m", "aejax.cli", "sweep", *argv, "--executor=local", "--jobs=1", only)
        jobs.append(Job(group[0].name, argv_of_job, logs_folder / f"{group[0].name}.log"))
    errors = {}
    for i, result in enumerate(_EXECUTOR(logs_folder).run(jobs, asked), 1):
        why = result.error or ("stopped" if result.status == STOPPED else f"ended with status {result.status}")
        print(f"[{i}/{len(jobs)}] {result.name}: {why if result.status else 'done'}", flush=True)
        if result.status:
            for run in divided[result.name]:
                if (ended := find_status(workdir, run)) != "finished":
                    errors[run.name] = ended.removeprefix("failed: ") if ended.startswith("failed") else why
    return errors


def sweep(axes: dict[str, list[Any]], argv: Sequence[str] = ()) -> None:
    """Trains the runs that are not finished, here or in jobs that run `argv`. Raises AejaxError if some failed."""
    from aejax.ablation.plan import added, grid, plan, to_json

    config, workdir = _CONFIG.value, local(_WORKDIR.value)
    sweep_of_config = None if axes else find_function(config_flags.get_config_filename(flags.FLAGS["config"]), "sweep")
    runs = plan(config, added(sweep_of_config) if sweep_of_config else grid(axes), _SEEDS.value)
    names = [run.name for run in runs]
    for name in _ONLY.value:
        if name not in names:
            raise aejax.errors.one_of("--only", name, names)
    listed = [run for run in runs if run.name in _ONLY.value or not _ONLY.value]
    statuses = {run.name: find_status(workdir, run) for run in listed}
    if _DRY_RUN.value:
        width = max(map(len, statuses))
        print("\n".join(f"{name:<{width}}  {reached}" for name, reached in statuses.items()))
        return
    if not _ONLY.value:
        write_whole(writable(workdir) / "sweep.json", to_json(config, runs))
    left = [run for run in listed if statuses[run.name] != "finished"]
    if len(left) < len(listed):
        print(f"{len(listed) - len(left)} of {len(listed)} runs are finished already")
    with command.until_signal() as asked:
        here = flags.FLAGS.executor == "local" and flags.FLAGS.jobs == 1
        errors = run_all(left, workdir, asked) if here else launch_all(left, workdir, asked, argv)
    if asked():
        raise aejax.StoppedError("stopped; the same command resumes")
    if errors:
        lines = "".join(f"\n  {name}: {error}" for name, error in errors.items())
        raise aejax.AejaxError(f"{len(errors)} of {len(listed)} runs failed; the same command tries again:{lines}")


def main() -> None:
    axes: dict[str, list[Any]] = {}
    given = sys.argv[1:]
    command.run(lambda: sweep(axes, given), before=lambda argv: axes.update(take_axes(argv)))
