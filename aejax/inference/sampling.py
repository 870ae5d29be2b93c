"""A run's sampler: fitted on the codes of its train split, and kept in its workdir."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from aejax import data, samplers
from aejax.errors import InputError, StorageError
from aejax.files import inside, local
from aejax.inference.run import Run

EXAMPLES, NUMBERS = 20_000, 2**26  # a sampler is fitted on so many examples at most, and so many numbers


def locate(run: Run, workdir: str | Path, name: str) -> Path:
    """Where the workdir keeps the run's sampler called `name`, by the step and by the parameters themselves."""
    return inside(local(workdir), "samplers", f"{run.step}-{run.fingerprint}", name)


def load_or_fit(run: Run, workdir: str | Path, name: str, **options: Any) -> samplers.Sampler:
    """The sampler called `name` with these options, as the workdir holds it, or else fitted and stored now.

    One that was stored with other options is replaced. Raises what `samplers.fit` and `samplers.save` raise.
    """
    samplers.check_kind(name, run.codebook_size is not None)
    if run.codebook_size is not None:
        options["size"] = run.codebook_size
    kind, place = samplers.build(name, **options), locate(run, workdir, name)
    if (place / samplers.FILE).exists():
        try:
            found = samplers.load(place)
            if found.kind == kind:
                return found
        except StorageError as error:
            warnings.warn(str(error), stacklevel=2)
    sampler = samplers.fit(name, encode_train(run), **options)
    try:
        samplers.save(sampler, place)
    except StorageError as error:  # a workdir that can only be read, say
        warnings.warn(f"the sampler is not kept: {error}", stacklevel=2)
    return sampler


def encode_train(run: Run, limit: int = EXAMPLES) -> np.ndarray:
    """The codes of up to `limit` examples of the train split, drawn always the same: what a sampler is fitted on.

    Indices of a discrete run. Where the code has a prior, draws of the posterior, not means: the decoder
    was trained on draws (Dai and Wipf 2019, "Diagnosing and enhancing VAE models", section 4).
    """
    source = data.load(run.config.data, run.trained_on).train
    arrays = data.read(source.sample(min(limit, NUMBERS // run.latents[0].size or 1)))
    x, label = arrays["x"], arrays.get("label") if run.config.classes else None
    if run.codebook_size is not None:
        return run.indices(x, label)
    return run.sample_posterior(x, label=label) if hasattr(run.model.bottleneck, "prior_of") else run.encode(x, label)


def choose_labels(run: Run, num: int, label: int | None = None) -> np.ndarray | None:
    """For `num` draws of a conditional run: `label`, or all of its labels in turn; else None."""
    classes = run.config.classes
    if label is None:
        return np.arange(num) % classes if classes else None
    if not 0 <= label < classes:
        held = f"whole numbers from 0 to {classes - 1}" if classes else "none: it is not conditional"
        raise InputError(f"label {label} is unknown; the run's labels are {held}")
    return np.full(num, label)
