"""A trained autoencoder for use: NumPy arrays in, NumPy arrays out."""

import dataclasses
import functools
import hashlib
import math
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from ml_collections import ConfigDict

from aejax import arguments, models, samplers
from aejax import config as config_lib
from aejax.data import Spec, as_array
from aejax.errors import InputError, StorageError, kind_and_words, shown
from aejax.files import local
from aejax.inference import export
from aejax.objectives import LIKELIHOODS, Likelihood
from aejax.registry import instantiate
from aejax.workdir import changes, checkpoint
from aejax.workdir.changes import Change

_VALUES = 2**20  # of a batch, 4 MB; the activations of a convolutional model take some hundred times as much
_FAR = "the code of example {} is NaN or infinite: its values are far from what the run was trained on; scale them"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Run:
    """A trained model, ready to use on this machine's default device.

    Inputs and reconstructions are in the user's units: [0, 1] for images, which may also be given as uint8 from 0 to
    255, and the data's own units for vectors.

    Attributes:
      config: the config of the experiment.
      spec: shape and units of one example.
      step: number of training steps done.
      variables: the model's variables, with averaged parameters if `ema` is on.
      latents, reconstructions, inputs: arrays [n, ...] for the fixed evaluation batch, the first validation examples.
      changes: changes of the config when the run resumed, see `aejax.workdir.changes`.
      trained_on: what `aejax.data.identify` returned for the data; None for checkpoints that do not record it.
    """

    config: ConfigDict
    spec: Spec
    step: int
    variables: Mapping[str, Any]
    latents: np.ndarray
    reconstructions: np.ndarray
    inputs: np.ndarray
    trained_on: Mapping[str, Any] | None = None
    changes: Sequence[Change] = ()

    def __repr__(self) -> str:
        return f"Run(step={self.step}, data={self.config.data.name!r}, {self.spec.shape} -> {self.latents.shape[1:]})"

    def __getstate__(self) -> dict[str, Any]:
        """Returns plain data, without compiled functions and arrays on devices."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return fields | {"config": config_lib.to_dict(self.config), "spec": self.spec.to_dict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        config, spec = config_lib.from_dict(state["config"]), Spec.from_dict(state["spec"])
        self.__dict__.update(state, config=config, spec=spec)

    @functools.cached_property
    def model(self) -> models.Autoencoder:
        """Builds the model of the config."""
        return models.build(self.config, self.spec.shape)

    @functools.cached_property
    def likelihood(self) -> Likelihood:
        """Builds the likelihood of x given decoded values."""
        return instantiate("likelihood", LIKELIHOODS, self.config.likelihood)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Returns a hash of the parameters and their names, 16 hexadecimal digits, which identifies the run."""
        digest = hashlib.sha256()
        for path, leaf in jax.tree_util.tree_leaves_with_path(self.variables):
            digest.update(jax.tree_util.keystr(path).encode() + np.ascontiguousarray(leaf).tobytes())
        return digest.hexdigest()[:16]

    @property
    def codebook_size(self) -> int | None:
        """Returns the number of discrete codes, or None for continuous codes."""
        return getattr(self.model.bottleneck, "size", None)

    def encode(self, x: Any, label: Any = None) -> np.ndarray:
        """Returns the deterministic latents [n, *latent] of x [n, ...]: the mean, or the nearest code.

        Like the methods below, it needs the labels of x, `label` [n], if the run is conditional, and raises InputError
        for input that does not fit the run.
        """
        return self.code(x, label)["z"]

    def code(self, x: Any, label: Any = None) -> dict[str, np.ndarray]:
        """Returns the latents of x as `z` and, for discrete codes, their `indices`, from one computation."""
        x = self.spec.check(x)
        code = map_batches(self._code, x, self._check_labels(label, len(x)), self._limit_batch())
        _check_finite(code["z"], _FAR)
        return code

    def sample_posterior(self, x: Any, seed: int = 0, label: Any = None) -> np.ndarray:
        """Returns a sample [n, *latent] of the posterior of each x, where `encode` returns its mean.

        Of several importance samples, returns the first. Returns `encode(x)` for a deterministic code.
        """
        x = self.spec.check(x)
        keys = jax.random.split(jax.random.key(arguments.check_seed(seed)), len(x))
        sampled = map_batches(self._sample, x, (keys, *self._check_labels(label, len(x))), self._limit_batch())
        _check_finite(sampled, _FAR)
        return sampled

    @functools.cached_property
    def abstract_code(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns shapes and dtypes of `code` for a batch of one example, without computing it."""
        label = [np.zeros(1, np.int32)] if self.config.classes else []
        return jax.eval_shape(self._code, jax.ShapeDtypeStruct((1, *self.spec.shape), np.float32), *label)

    def indices(self, x: Any, label: Any = None) -> np.ndarray:
        """Returns the discrete codes of x, int32 [n, ...]. Raises InputError if the codes are continuous."""
        code = self.code(x, label)
        if "indices" not in code:
            raise InputError(f"bottleneck {self.config.bottleneck.name!r} has no discrete codes; use encode")
        return code["indices"]

    def lookup(self, indices: Any) -> np.ndarray:
        """Returns the latents [n, *latent] of discrete codes [n, ...], as `indices` returns them, for `decode`."""
        indices, size = as_array(indices, "codes"), self.codebook_size
        if size is None:
            raise InputError(f"bottleneck {self.config.bottleneck.name!r} has no discrete codes; use decode")
        if indices.dtype.kind not in "iu" or not indices.size or indices.min() < 0 or indices.max() >= size:
            given = f"{indices.min()} to {indices.max()}" if indices.size else "none"
            raise InputError(f"codes must be whole numbers from 0 to {size - 1}, got {given} ({indices.dtype})")
        shape = self.abstract_code["indices"].shape[1:]
        if indices.shape[1:] != shape:
            raise InputError(f"the run's codes are (n, *{shape}), the given ones {indices.shape}")
        return map_batches(self._lookup, indices.astype(np.int32), (), self._limit_batch())

    def decode(self, z: Any, label: Any = None) -> np.ndarray:
        """Returns the expected x [n, ...] given latents [n, *latent]."""
        z = as_array(z, "the latents")
        with np.errstate(over="ignore"):
            z = z.astype(np.float32)
        if z.shape == self.latents.shape[1:]:
            raise InputError(f"the latent {z.shape} is one without its batch axis; give latents [n, ...], e.g. z[None]")
        if not z.size or z.shape[1:] != self.latents.shape[1:]:
            raise InputError(f"the run's latents are (n, *{self.latents.shape[1:]}), the given ones {z.shape}")
        _check_finite(z, "the latents: example {} holds NaN or infinity in float32; give finite numbers")
        decoded = map_batches(self._decode, z, self._check_labels(label, len(z)), self._limit_batch())
        _check_finite(decoded, "example {} is decoded to NaN or infinity: its latents are far from the run's own")
        return decoded

    def reconstruct(self, x: Any, label: Any = None) -> np.ndarray:
        """Returns `decode(encode(x))`."""
        return self.decode(self.encode(x, label), label)

    def in_users_units(self, x: Any) -> np.ndarray:
        """Returns x as float32, images in [0, 1], for comparison with `reconstruct(x)`."""
        x = self.spec.check(x)
        parts = (self.spec.restore(self.spec.prepare(x[i : i + 4096])) for i in range(0, len(x), 4096))
        return np.concatenate([np.asarray(part) for part in parts])

    def generate(
        self, num: int, seed: int = 0, label: Any = None, sampler: samplers.Sampler | None = None
    ) -> np.ndarray:
        """Decodes `num` samples of `sampler`, see `aejax.samplers`, or of the model's prior, to x [num, ...].

        Without a sampler or a prior, samples are based on the saved latents: each position of a discrete code is
        sampled from the codes found there, and continuous latents from a Gaussian with their mean and covariance.
        Warns if all saved latents are equal. Raises InputError for a sampler that does not fit the run.
        """
        seed = arguments.check_seed(seed)
        # Bytes per example: two copies while batches are concatenated; latents as float64 and float32.
        each = 8 * math.prod(self.spec.shape) + 12 * math.prod(self.latents.shape[1:])
        num = arguments.check_count("generate", num, each)
        self._check_labels(label, num)  # raises before anything is sampled
        if sampler is not None:
            if not isinstance(sampler, samplers.Sampler):
                raise InputError(f"sampler must be what aejax.samplers.fit(name, latents) gives, got {sampler!r}")
            samplers.check_kind(sampler.name, self.codebook_size is not None)
            shape = self.abstract_code["z" if self.codebook_size is None else "indices"].shape[1:]
            if sampler.shape != shape:
                raise InputError(f"the run's codes are (n, *{shape}), the sampler's (n, *{sampler.shape})")
            size = getattr(sampler.kind, "size", None)
            if size != self.codebook_size:
                raise InputError(
                    f"the sampler is for {size} codes and the run has {self.codebook_size}: fit one on its indices"
                )
            code = sampler.sample(num, seed)
            return self.decode(code if self.codebook_size is None else self.lookup(code), label)
        prior: Any = self.model.apply(self._on_device, method="prior")
        if prior is not None:
            return self.decode(np.asarray(prior.sample(jax.random.split(jax.random.key(seed), num))), label)
        if len(self.latents) < 2:
            raise InputError(
                "generate samples from the saved latents, and one alone would give one example again and again; give a "
                "sampler, aejax.samplers.fit(name, run.encode(x)), or train with two or more samples and validation "
                "examples"
            )
        if num > 1 and (self.latents == self.latents[:1]).all():
            warnings.warn(
                f"the {len(self.latents):,} saved latents are all the same, and so is what is generated from them; "
                "give a sampler, aejax.samplers.fit(name, run.encode(x)), or look at the training",
                stacklevel=2,
            )
        if self.codebook_size is not None:
            shape = self.latents.shape[1:-1]
            rows = np.random.default_rng(seed).integers(len(self.latents), size=(num, *shape))
            return self.decode(self.latents[(rows, *np.indices(shape))], label)
        return self.decode(samplers.fit("gaussian", self.latents).sample(num, seed), label)

    def export(self, folder: str | Path) -> Path:
        """Writes `encode` and `decode` as programs that JAX calls without aejax; see `aejax.inference.export`.

        Writes `encoder.stablehlo` and `decoder.stablehlo` and, for discrete codes, `indices.stablehlo` and
        `lookup.stablehlo`. Programs of a conditional run take the label, int32 [batch], as their second argument.
        Other arrays are float32 [batch, ...], or int32 for indices, in the user's units; values are not checked.
        `programs.json` describes shapes and units. Returns the folder. Raises StorageError if it cannot be written.
        """
        units = "images in [0, 1]" if len(self.spec.shape) == 3 else "the data's own units"
        x = export.Value("x", self.spec.shape, "float32", units)
        z = export.Value("z", self.latents.shape[1:], "float32", "latents")
        label = [export.Value("label", (), "int32", f"0 to {self.config.classes - 1}")] if self.config.classes else []
        standardize = self.spec.standardize
        programs = {
            "encoder": export.Program(lambda x, *label: self._code(standardize(x), *label)["z"], [x, *label], z),
            "decoder": export.Program(self._decode, [z, *label], x._replace(name="decoded")),
        }
        if "indices" in self.abstract_code:
            shape = self.abstract_code["indices"].shape[1:]
            indices = export.Value("indices", shape, "int32", f"below {self.codebook_size}")
            function = lambda x, *label: self._code(standardize(x), *label)["indices"]  # noqa: E731
            programs["indices"] = export.Program(function, [x, *label], indices)
            programs["lookup"] = export.Program(self._lookup, [indices], z)
        return export.write(folder, programs, {"data": self.config.data.name, "step": self.step})

    def _check_labels(self, label: Any, length: int) -> tuple[np.ndarray, ...]:
        """Returns the labels as a tuple of one int32 array, or () for a run that is not conditional."""
        classes = self.config.classes
        if not classes:
            if label is not None:
                raise InputError("the run is not conditional (classes=0): leave the labels out")
            return ()
        if label is None:
            raise InputError(f"the run is conditional: give label=, {length} whole numbers from 0 to {classes - 1}")
        label = as_array(label, "label")
        if label.shape != (length,) or label.dtype.kind not in "iu" or label.min() < 0 or label.max() >= classes:
            raise InputError(
                f"label must be {length} whole numbers from 0 to {classes - 1}, got {label.shape} {shown(label)}"
            )
        return (label.astype(np.int32),)

    def _limit_batch(self, most: int = 1_024) -> int:
        """Returns the number of examples in a batch: at most `most`, and fewer if they are large."""
        return max(min(_VALUES // math.prod(self.spec.shape), most), 1)

    @functools.cached_property
    def _on_device(self) -> Any:
        return jax.device_put(self.variables)

    @functools.cached_property
    def _code(self) -> Callable:
        model, spec = self.model, self.spec

        def encode(variables, x, label=None):
            code: Any = model.apply(variables, spec.prepare(x), label=label, method="encode")
            return {"z": code.z} | ({} if code.indices is None else {"indices": code.indices})

        return functools.partial(jax.jit(encode), self._on_device)

    @functools.cached_property
    def _sample(self) -> Callable:
        model, spec = self.model, self.spec

        def sample(variables, x, keys, label=None):
            code: Any = model.apply(variables, spec.prepare(x), label=label, keys=keys, method="encode")
            return code.z[0] if code.samples else code.z

        return functools.partial(jax.jit(sample), self._on_device)

    @functools.cached_property
    def _lookup(self) -> Callable:
        model = self.model
        lookup = jax.jit(lambda variables, indices: model.apply(variables, indices, method="lookup"))
        return functools.partial(lookup, self._on_device)

    @functools.cached_property
    def _decode(self) -> Callable:
        model, spec = self.model, self.spec
        mean = self.likelihood.mean

        def decode(variables, z, label=None):
            decoded: Any = model.apply(variables, z, label=label, method="decode")
            return spec.restore(mean(decoded))

        return functools.partial(jax.jit(decode), self._on_device)


def map_batches(function: Callable, x: np.ndarray, more: tuple[Any, ...], size: int) -> Any:
    """Applies `function` to batches of `x` and `more` [n, ...] and concatenates its results.

    All batches have the same size: `size`, or a power of two below it for fewer examples, so that few are compiled.
    """
    size = min(size, 1 << (len(x) - 1).bit_length())
    parts: list[Any] = []
    for i in range(0, len(x), size):
        # The last batch repeats an example to reach the size; slices of the others are views, not copies.
        rows = slice(i, i + size) if i + size <= len(x) else np.minimum(np.arange(i, i + size), len(x) - 1)
        parts.append(function(x[rows], *(a[rows] for a in more)))
        parts[-2:-1] = map(jax.device_get, parts[-2:-1])  # fetched while the next batch is computed
    return jax.tree.map(lambda *a: np.concatenate(a)[: len(x)], *jax.device_get(parts))


def _check_finite(values: np.ndarray, message: str) -> None:
    """Raises InputError with the index of the first example whose values are not all finite."""
    for row in np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(1)):
        raise InputError(message.format(row))


def load_run(workdir: str | Path, step: int | Literal["newest", "best"] = "newest", trust: Collection[str] = ()) -> Run:
    """Loads a checkpoint of `workdir`, on whatever machine and however many devices it was trained.

    Args:
      workdir: the folder of the experiment.
      step: the step of the checkpoint, "newest", or "best", which has the lowest validation loss.
      trust: packages or modules whose code may run. A workdir may come from anyone, and its config may name code as
        "package.module:attribute".

    Raises:
      InputError: there is no such checkpoint, or its config names code that is not trusted.
      StorageError: no checkpoint can be read.
    """
    workdir = local(workdir)
    saved = checkpoint.find(workdir, step)
    try:
        config_lib.check_trust(saved.metadata["config"], [trust] if isinstance(trust, str) else trust, str(workdir))
        run = from_checkpoint(saved)
        _ = run.model  # raises where the config lacks what it needs
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # the checkpoint may come from anyone
        if isinstance(error, InputError):
            raise
        raise StorageError(
            f"{workdir}, step {saved.step}, holds no run ({kind_and_words(error)}); load another step"
        ) from error
    return run


def from_checkpoint(saved: checkpoint.Checkpoint) -> Run:
    """Builds the run from a checkpoint, with the averaged parameters if there are any."""
    return Run(
        config=config_lib.from_dict(saved.metadata["config"]),
        spec=Spec.from_dict(saved.metadata["spec"]),
        step=saved.step,
        trained_on=saved.metadata.get("data"),
        changes=changes.parse(saved.metadata),
        variables=checkpoint.get_variables(saved),
        **saved.samples,
    )
