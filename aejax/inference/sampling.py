"""The samplers of a run: fitted to the codes of its training split, and stored in its workdir."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from aejax import data, samplers
from aejax.errors import InputError, StorageError
from aejax.files import inside, local
from aejax.inference.run import Run

EXAMPLES, VALUES = 20_000, 2**26  # examples and values of their codes that a sampler is fitted to, at most


def locate(run: Run, workdir: str | Path, name: str) -> Path:
    """Returns the folder of the run's sampler called `name`, which depends on the run's step and parameters."""
    return inside(local(workdir), "samplers", f"{run.step}-{run.fingerprint}", name)


def load_or_fit(run: Run, workdir: str | Path, name: str, **options: Any) -> samplers.Sampler:
    """Loads the sampler called `name` from the workdir, or fits and stores it if none has the same options.

    A stored sampler with other options is replaced. Warns if the sampler cannot be stored. Raises the errors of
    `samplers.fit`.
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
    except StorageError as error:  # for example, the workdir is read-only
        warnings.warn(f"the sampler is not kept: {error}", stacklevel=2)
    return sampler


def encode_train(run: Run, limit: int = EXAMPLES) -> np.ndarray:
    """Returns the codes of up to `limit` random examples of the training split, the same ones in each call.

    Discrete codes are indices. If the code has a prior, returns samples of the posterior, not its means, because the
    decoder was trained on samples (Dai and Wipf 2019, "Diagnosing and enhancing VAE models", section 4).
    """
    source = data.load(run.config.data, run.trained_on).train
    arrays = data.read(source.sample(min(limit, VALUES // run.latents[0].size or 1)))
    x, label = arrays["x"], arrays.get("label") if run.config.classes else None
    if run.codebook_size is not None:
        return run.indices(x, label)
    return run.sample_posterior(x, label=label) if hasattr(run.model.bottleneck, "prior_of") else run.encode(x, label)


def choose_labels(run: Run, num: int, label: int | None = None) -> np.ndarray | None:
    """Returns labels [num] for samples of a conditional run: `label`, or all in turn. Returns None for other runs.

    Raises InputError for an unknown label.
    """
    classes = run.config.classes
    if label is None:
        return np.arange(num) % classes if classes else None
    if not 0 <= label < classes:
        known = f"whole numbers from 0 to {classes - 1}" if classes else "none: it is not conditional"
        raise InputError(f"label {label} is unknown; the run's labels are {known}")
    return np.full(num, label)
