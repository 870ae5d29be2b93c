"""Trains what a config describes: python -m experiments.train --config=configs/conv.py --workdir=runs/conv"""

from absl import flags
from ml_collections import config_flags

import aejax
from experiments import main

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Config file, e.g. configs/conv.py or configs/conv.py:tiny.",
    lock_config=False,
    accept_new_attributes=True,
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the whole experiment; the same command goes on in it.")
flags.mark_flags_as_required(["config", "workdir"])


def train() -> None:
    config, workdir = main.loaded(_CONFIG.value), _WORKDIR.value
    with main.until_signal() as asked:
        run = aejax.train(config, workdir, stop=asked)
    if asked() and run.step < config.steps:
        print(f"saved at step {run.step:,} of {config.steps:,}; the same command goes on from there")
        return
    from aejax.evaluation import pictures  # matplotlib and scikit-learn: half a second that training need not wait for

    for picture in pictures.save(run, workdir):
        print(picture)
    print(f"step {run.step:,}: latents {run.latents.shape[1:]}; load them with aejax.load_run({workdir!r})")


if __name__ == "__main__":
    main.run(train)
