"""Training of a config: aejax train --config=conv --workdir=runs/conv

The exit status is 0 when the training is complete; 75 when SIGTERM or Ctrl-C stopped it after saving, so that the same
command resumes it; 1 after an error, which is printed in one line.
"""

import sys
from contextlib import nullcontext

from absl import flags

import aejax
from aejax.cli import command
from aejax.cli.config_flag import config_flag
from aejax.cli.launching.job import STOPPED
from aejax.files import check_writable, local

_CONFIG = config_flag("config", "Config: a name, e.g. conv or conv:tiny, or a file of your own.")
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the whole experiment. The same command resumes in it.", required=True
)
_COORDINATOR = flags.DEFINE_string("coordinator", "", "With several processes: where the first one listens, host:port.")
_PROCESSES = flags.DEFINE_integer("processes", 0, "Number of processes.")
_PROCESS = flags.DEFINE_integer("process", -1, "Number of this process, from 0.")
_DISTRIBUTED = flags.DEFINE_boolean(
    "distributed", False, "Several processes, which the cluster's environment describes."
)
_CHECK = flags.DEFINE_boolean(
    "check", False, "Train one batch, print shapes, loss and memory, and exit. Nothing is written to the workdir."
)
_CHANGE = flags.DEFINE_list(
    "change",
    [],
    "Keys of the config, e.g. steps,optim.lr, whose new values a run takes when it resumes. The run records each "
    "change, and later commands need not repeat it.",
)
_DEBUG_NANS = flags.DEFINE_boolean(
    "debug_nans", False, "Raise in the operation that made the first NaN, with its traceback. Much slower."
)
_PROFILE = flags.DEFINE_string(
    "profile",
    "",
    "Steps for JAX's profiler, e.g. 100:110 for those from step 100 to step 110. The first process writes the trace to "
    "plugins/profile in the workdir. It holds whole dispatches, which may be of several steps each.",
)


def steps(text: str) -> range | None:
    """Returns the steps that the text of --profile names, or None if it is empty."""
    first, colon, last = text.partition(":")
    if text and not (colon and first.isdigit() and last.isdigit()):
        raise aejax.InputError(f"--profile={text} must be two steps, first:last, e.g. --profile=100:110")
    return range(int(first), int(last)) if text else None


def amount(gib: float) -> str:
    return f"{gib:,.4g} GiB" if gib >= 1 else f"{gib * 1024:,.4g} MiB"


def train() -> None:
    import jax

    from aejax.distributed import processes
    from aejax.training.preflight import preflight
    from aejax.workdir.lifecycle import is_finished

    if _DEBUG_NANS.value:
        jax.config.update("jax_debug_nans", True)
    config, workdir = _CONFIG.value, local(_WORKDIR.value)
    profiled = steps(_PROFILE.value)
    if _CHECK.value:
        check_writable(local(workdir))
        found = preflight(config)
        print(
            f"{found['examples']:,} examples of {found['input']}, codes of {found['code']}, "
            f"{found['parameters']:,} parameters, loss of the first batch {found['loss']:.5g}\n"
            f"each device holds a state of {amount(found['state_gib'])}; "
            f"a step needs {amount(found['step_gib'])} of its memory, with the state and without the data"
        )
        return
    several = _DISTRIBUTED.value or _COORDINATOR.value
    if not several and (_PROCESSES.value or _PROCESS.value != -1):
        raise aejax.InputError("--processes and --process need --coordinator=host:port")
    with processes.join(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value) if several else nullcontext():
        with command.until_signal() as asked:
            run = aejax.train(config, workdir, stop=asked, profiled=profiled, change=_CHANGE.value)
        primary = not several or jax.process_index() == 0
    if not is_finished(run.config, workdir):  # in all processes, whichever of them got the signal
        if primary:
            print(f"saved at step {run.step:,} of {run.config.steps:,}; the same command resumes from there")
        sys.exit(STOPPED)
    if not primary:
        return
    run.keep_statistics()  # while the train split is at hand
    from aejax.evaluation import pictures  # imports matplotlib and scikit-learn, which take half a second

    for picture in pictures.save(run, workdir):
        print(picture)
    print(f"step {run.step:,}: latents {run.latents.shape[1:]}; load them with aejax.load_run({str(workdir)!r})")


def main() -> None:
    command.run(train)
