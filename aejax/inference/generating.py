"""Latents that examples are generated from: of a sampler, of the model's prior, or based on the saved latents.

`run` is a `TrainedModel`, whose module imports this one.
"""

import warnings
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import Float

from aejax.errors import InputError
from aejax.inference.hierarchy import Temperature, sample_prior

if TYPE_CHECKING:
    from aejax.samplers import Sampler


def sample_latents(
    run: Any, num: int, seed: int, sampler: "Sampler | None", temperature: Temperature
) -> Float[np.ndarray, "{num} ..."]:
    """Samples `num` latents as `TrainedModel.generate` says; raises and warns as it does."""
    prior: Any = None if sampler else run.model.apply(run.density.variables, method="prior")
    if prior is None and not (isinstance(temperature, int | float) and temperature == 1):
        raise InputError("temperature is for samples of the model's prior; leave it out")
    if sampler is not None:
        return _sample(run, num, seed, sampler)
    if prior is not None:
        return sample_prior(prior, jax.random.split(jax.random.key(seed), num), temperature, run.spec.shape)
    return _sample_saved(run, num, seed)


def _sample(run: Any, num: int, seed: int, sampler: "Sampler") -> np.ndarray:
    from aejax import samplers  # here, because their modules take a hundredth of a second

    if not isinstance(sampler, samplers.Sampler):
        raise InputError(f"sampler must be what aejax.samplers.fit(name, latents) gives, got {sampler!r}")
    samplers.check_kind(sampler.name, run.codebook_size is not None)
    shape = run.abstract_code["z" if run.codebook_size is None else "indices"].shape[1:]
    if sampler.shape != shape:
        raise InputError(f"the run's codes are (n, *{shape}), the sampler's (n, *{sampler.shape})")
    size = getattr(sampler.kind, "size", None)
    if size != run.codebook_size:
        raise InputError(f"the sampler has {size} codes, the run {run.codebook_size}; fit one on its indices")
    code = sampler.sample(num, seed)
    return code if run.codebook_size is None else run.lookup(code)


def _sample_saved(run: Any, num: int, seed: int) -> np.ndarray:
    from aejax import samplers  # likewise

    if len(run.latents) < 2:
        raise InputError(
            "generate samples from the saved latents, and one alone would give one example again and again; give a "
            "sampler, aejax.samplers.fit(name, run.encode(x)), or train with two or more samples and validation "
            "examples"
        )
    if num > 1 and (run.latents == run.latents[:1]).all():
        warnings.warn(
            f"the {len(run.latents):,} saved latents are all the same, and so is what is generated from them; "
            "give a sampler, aejax.samplers.fit(name, run.encode(x)), or look at the training",
            stacklevel=4,
        )
    if run.codebook_size is not None:
        shape = run.latents.shape[1:-1]
        rows = np.random.default_rng(seed).integers(len(run.latents), size=(num, *shape))
        return run.latents[(rows, *np.indices(shape))]
    return samplers.fit("gaussian", run.latents).sample(num, seed)
