"""Measures the configs of data other than images: python -m experiments.kinds

Trains each config, scores its last step on the test split, and writes experiments/results/kinds/<config>.json: the
time, the squared error beside that of PCA, and how well single units of the code separate the known factors. A few
minutes on two CPU cores.
"""

import json
import tempfile
import time

from absl import flags

import aejax
from aejax.cli import command
from aejax.evaluation.subject import Measure
from aejax.files import local, writable, write_whole
from experiments.machine import machine

_FOLDER = flags.DEFINE_string("kinds_folder", "experiments/results/kinds", "Folder of the figures.")
_ONLY = flags.DEFINE_list("kinds", ["volume_vae"], "Configs to train.")
_ARG = flags.DEFINE_string("kinds_arg", "", "Argument of each config, e.g. tiny.")
GROUPS = ("reconstruction", "disentanglement")


def train(name: str, arg: str = "") -> dict:
    """Returns the figures of a config."""
    config = aejax.load_config(f"{name}:{arg}")
    with tempfile.TemporaryDirectory() as workdir:
        begin, of_cpu = time.perf_counter(), time.process_time()
        run = aejax.train(config, workdir, quiet=True)
        seconds, of_cpu = time.perf_counter() - begin, time.process_time() - of_cpu
        measured = run.evaluate(groups=GROUPS)
    found = {key: m.value for group in measured.values() for key, m in group.items() if isinstance(m, Measure)}
    times = {"training_seconds": round(seconds, 1), "training_cpu_seconds": round(of_cpu, 1)}
    return {"config": name, "steps": run.step, "batch_size": config.batch_size, **times} | {
        "test": found,
        "machine": machine(),
    }


def sentence(figures: dict) -> str:
    """Returns what a config's docstring says of its time and result."""
    test = figures["test"]
    errors = f"{test['squared_error']:.1f} a test example, where PCA of as many components has "
    errors += f"{test['pca_squared_error']:.1f}"
    units = f"MIG {test['mig']:.2f}, DCI disentanglement {test['dci_disentanglement']:.2f}"
    return f"About {figures['training_cpu_seconds']:.0f} seconds of CPU time; squared error {errors}; {units}."


def kinds() -> None:
    folder = writable(local(_FOLDER.value))
    for name in _ONLY.value:
        figures = train(name, _ARG.value)
        write_whole(folder / f"{name}.json", json.dumps(figures, indent=1) + "\n")
        print(f"{name}: {sentence(figures)}")


if __name__ == "__main__":
    command.run(kinds)
