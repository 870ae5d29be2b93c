"""Draws new examples: python -m experiments.sample --workdir=runs/vae --num=64 --out=samples.png

By the model's own prior (of a model without one: from the saved latents), or by a sampler that is fitted on
the codes of the train split, on the first call, and kept in the workdir under samplers/<step>/<sampler>:
--sampler=gaussian, mixture, flow, or autoregressive for discrete codes. --prior=configs/priors/transformer.py
names a sampler with its options. An --out of .npz gets the arrays, one of .png a picture.
"""

import os
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from ml_collections import config_flags

import aejax
from aejax import Run, data, samplers
from aejax.errors import one_of
from aejax.evaluation import plots
from experiments import main

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the experiment.", required=True)
_NUM = flags.DEFINE_integer("num", 64, "Examples to draw.")
_OUT = flags.DEFINE_string(
    "out", None, "File to write: .png, or .npz with `samples` and, if any, `label`.", required=True
)
_SAMPLER = flags.DEFINE_string("sampler", None, f"prior, the default, or one of: {', '.join(samplers.SAMPLERS)}.")
_PRIOR = config_flags.DEFINE_config_file(
    "prior",
    None,
    "Config of a sampler, e.g. configs/priors/transformer.py.",
    lock_config=False,
    accept_new_attributes=True,
)
_SEED = flags.DEFINE_integer("seed", 0, "Of the draws.")
_LABEL = flags.DEFINE_integer("label", None, "Of a conditional run; all of them in turn unless told.")
_STEP = flags.DEFINE_string("step", "newest", "Checkpoint: a step, newest, or best (by validation loss).")

EXAMPLES, NUMBERS = 20_000, 2**26  # a sampler is fitted on so many examples at most, and so many numbers


def section() -> dict[str, Any] | None:
    """Name and options of the sampler that the flags ask for; None for the model's prior."""
    config = {} if _PRIOR.value is None else main.loaded(_PRIOR.value).to_dict()
    name = _SAMPLER.value or config.get("name", "prior")
    if config and name != config.get("name"):
        raise aejax.InputError(f"--prior describes sampler {config.get('name')!r} and --sampler={name}: leave one out")
    if name == "prior":
        return None
    if name not in samplers.SAMPLERS:
        raise one_of("sampler", name, ["prior", *samplers.SAMPLERS])
    return {**config, "name": name}


def labels(run: Run, num: int) -> np.ndarray | None:
    """One for each draw of a conditional run."""
    classes, label = run.config.classes, _LABEL.value
    if label is None:
        return np.arange(num) % classes if classes else None
    if not 0 <= label < classes:
        held = f"whole numbers from 0 to {classes - 1}" if classes else "none: it is not conditional"
        raise aejax.InputError(f"--label={label}, but the run's labels are {held}")
    return np.full(num, label)


def fitted(run: Run, workdir: Path, section: Mapping[str, Any]) -> samplers.Sampler:
    """The sampler of a run as its workdir holds it, or else fitted on the train split and stored there."""
    name = section["name"]
    samplers.check_kind(name, run.codes is not None)
    options = {**section, "size": run.codes} if name == "autoregressive" else dict(section)
    kind = samplers.build(**options)
    folder = main.writable(workdir / "samplers" / str(run.step) / name)
    if (folder / samplers.FILE).exists():
        try:
            found = samplers.load(folder)
            if found.kind == kind:
                return found
        except aejax.StorageError as error:
            warnings.warn(str(error), stacklevel=2)
    sampler = samplers.fit(latents=codes(run), **options)
    samplers.save(sampler, folder)
    return sampler


def codes(run: Run) -> np.ndarray:
    """What a sampler is fitted on: indices, draws of the posterior or deterministic latents of the train split.

    Draws, not means, where the code has a prior: the decoder was trained on draws (Dai and Wipf 2019).
    """
    source = data.load(run.config.data).train
    limit = min(EXAMPLES, NUMBERS // run.latents[0].size or 1)
    if limit < len(source):
        rows = np.sort(np.random.default_rng(0).permutation(len(source))[:limit])
        source = source.subset(rows, source.name)
    arrays = data.read(source)
    x, label = arrays["x"], arrays.get("label") if run.config.classes else None
    if run.codes is not None:
        return run.indices(x, label)
    return run.sample_posterior(x, label=label) if hasattr(run.model.bottleneck, "prior_of") else run.encode(x, label)


def write(out: Path, run: Run, drawn: np.ndarray, label: np.ndarray | None) -> None:
    """The picture or the arrays, whole or not at all."""
    with tempfile.TemporaryDirectory(dir=out.parent) as beside:
        file = Path(beside) / out.name
        if out.suffix == ".npz":
            np.savez(file, samples=drawn, **({} if label is None else {"label": label}))
        else:
            plots.samples(drawn, run.inputs).savefig(file, dpi=150, facecolor="white")
        os.replace(file, out)


def sample() -> None:
    num, out, workdir = _NUM.value, Path(_OUT.value), Path(_WORKDIR.value)
    if num < 1:
        raise aejax.InputError(f"--num must be at least 1, got {num}")
    if out.suffix not in (".png", ".npz") or out.is_dir():
        raise aejax.InputError(f"--out={out} must be a file that ends in .png or .npz")
    wanted = section()
    main.writable(out.parent)
    run = aejax.load_run(workdir, int(_STEP.value) if _STEP.value.isdigit() else _STEP.value)
    label = labels(run, num)
    sampler = wanted and fitted(run, workdir, wanted)
    write(out, run, run.generate(num, _SEED.value, label, sampler), label)
    print(out)


if __name__ == "__main__":
    main.run(sample)
