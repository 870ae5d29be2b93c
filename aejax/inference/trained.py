"""A trained autoencoder for use: NumPy arrays in, NumPy arrays out."""

import dataclasses
import functools
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import Float, Int, Num
from ml_collections import ConfigDict
from numpy.typing import ArrayLike

from aejax import arguments, models
from aejax import config as config_lib
from aejax.data import Spec, as_array, fill_masked, is_sparse
from aejax.errors import InputError
from aejax.inference.batches import check_finite, check_labels, limit_batch, map_batches
from aejax.inference.compiled import Compiled
from aejax.inference.density import Density, warn_of_few
from aejax.inference.generating import sample_latents
from aejax.inference.hierarchy import Temperature, complete
from aejax.inference.signals import Signals
from aejax.inference.tiles import Tile, Tiles, check_images, plan_tiles
from aejax.objectives import LIKELIHOODS, Likelihood, Objective
from aejax.registry import instantiate
from aejax.workdir.changes import Change

if TYPE_CHECKING:
    from aejax.samplers import Sampler

_FAR = "the code of example {} is NaN or infinite: its values are far from what the run was trained on; scale them"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class TrainedModel:
    """A trained model, ready to use on this machine's default device: what of a `Run` needs neither files nor metrics.

    Inputs and reconstructions are in the user's units: [0, 1] for images, which may also be given as uint8 from 0 to
    255, and the data's own units for vectors. If the model takes images of any size, as those of "kl", "taesd" and "dc"
    do, they may have other sides than those in `spec`, see `any_size`.

    Attributes:
      config: the config of the experiment.
      spec: shape and units of one example.
      step: number of training steps done.
      variables: the model's variables, with averaged parameters if `ema` is on.
      latents, reconstructions, inputs: arrays [n, ...] for the fixed evaluation batch, the first validation examples.
      changes: changes of the config when the run resumed, see `aejax.workdir.changes`.
      trained_on: what `aejax.data.identify` returned for the data; None for checkpoints that do not record it.
      own_model, own_objective: what `fit` was given in place of the names in a config.
    """

    config: ConfigDict
    spec: Spec
    step: int
    variables: Mapping[str, Any]
    latents: Float[np.ndarray, "examples ..."]
    reconstructions: Float[np.ndarray, "examples ..."]
    inputs: Num[np.ndarray, "examples ..."]
    trained_on: Mapping[str, Any] | None = None
    changes: Sequence[Change] = ()
    own_model: models.Autoencoder | None = None
    own_objective: Objective | None = None

    def __repr__(self) -> str:
        shapes = f"{self.spec.shape} -> {self.latents.shape[1:]}"
        return f"{type(self).__name__}(step={self.step}, data={self.config.data.name!r}, {shapes})"

    def __getstate__(self) -> dict[str, Any]:
        """Returns plain data, without compiled functions and arrays on devices."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return fields | {"config": config_lib.to_dict(self.config), "spec": self.spec.to_dict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        config, spec = config_lib.from_dict(state["config"]), Spec.from_dict(state["spec"])
        self.__dict__.update(state, config=config, spec=spec)

    @functools.cached_property
    def model(self) -> models.Autoencoder:
        """Returns the model, built from the config if it was not given as an object."""
        return self.own_model if self.own_model is not None else self._build()

    def _build(self) -> models.Autoencoder:
        return models.build(self.config, self.spec.shape, target=self.spec.target, columns=self.spec.likelihoods)

    @functools.cached_property
    def likelihood(self) -> Likelihood:
        """Returns the likelihood of x given decoded values."""
        if self.own_objective is not None:
            return self.own_objective.likelihood
        return instantiate("likelihood", LIKELIHOODS, self.config.likelihood, {"columns": self.spec.likelihoods})

    @functools.cached_property
    def fingerprint(self) -> str:
        """Returns a hash of the parameters and their names, 16 hexadecimal digits, which identifies the run."""
        digest = hashlib.sha256()
        for path, leaf in jax.tree_util.tree_leaves_with_path(self.variables):
            digest.update(jax.tree_util.keystr(path).encode() + np.ascontiguousarray(leaf).tobytes())
        return digest.hexdigest()[:16]

    @functools.cached_property
    def compiled(self) -> Compiled:
        """Returns the model's functions, compiled for this machine's default device."""
        return Compiled(self.model, self.spec, self.likelihood, self.variables)

    @functools.cached_property
    def density(self) -> Density:
        """Returns the model's density of x, which says what the run can estimate of it."""
        return Density(self.config, self.model, self.likelihood, self.spec, self.compiled.variables)

    @functools.cached_property
    def signals(self) -> Signals:
        """Returns what encodes and decodes signals of any length in chunks; raises InputError for other models."""
        return Signals(self)

    @functools.cached_property
    def any_size(self) -> bool:
        """Returns whether the model takes images of any sides that its downsampling divides."""
        parts = (self.model.encoder, self.model.decoder)
        return self.latents.ndim == 4 and all(getattr(part, "any_size", False) for part in parts)

    def fits(self, shape: Sequence[int], own: Sequence[int] | None = None, tiled: bool = False) -> bool:
        """Returns whether the run takes examples of `shape`; with `own`, arrays such as its own, of the shape `own`.

        In tiles it takes images of other sides.
        """
        own = self.spec.shape if own is None else own
        any_size = (self.any_size or tiled) and len(shape) == 3 and shape[-1] == own[-1]
        return tuple(shape) == tuple(own) or any_size

    @property
    def codebook_size(self) -> int | None:
        """Returns the number of discrete codes, or None for continuous codes."""
        return getattr(self.model.bottleneck, "size", None)

    def encode(
        self, x: ArrayLike, label: ArrayLike | None = None, *, tile: Tile = None, overlap: int | None = None
    ) -> Float[np.ndarray, "n ..."]:
        """Returns the deterministic latents [n, *latent] of x [n, ...]: the mean, or the nearest code.

        Like the methods below, it needs the labels of x, `label` [n], if the run is conditional (this one only if the
        encoder reads them, see `condition.encoder`), and raises InputError for input that does not fit the run.

        Args:
          x: examples, or larger images if there are tiles.
          label: their labels.
          tile: side, or (height, width), of tiles in pixels of the image, in which convolutional models encode and
            decode large images, see `map_tiles`. Those that take images of one size have tiles of this size.
          overlap: number of pixels that tiles share, by default a quarter of their side.
        """
        return self.code(x, label, tile=tile, overlap=overlap)["z"]

    def code(
        self, x: ArrayLike, label: ArrayLike | None = None, *, tile: Tile = None, overlap: int | None = None
    ) -> dict[str, Num[np.ndarray, "n ..."]]:
        """Returns the latents of x as `z` and, for discrete codes, their `indices`, from one computation."""
        tiles = self._plan_tiles(tile, overlap)
        x, key = self._check(x, tiles is not None), "z" if self.codebook_size is None else "indices"
        if tiles is None:
            code = self._map(self.compiled.code, x, label, encodes=True)
        else:
            code = {key: tiles.encode(lambda part: self._map(self.compiled.code, part, label, encodes=True)[key], x)}
            code = code if key == "z" else code | {"z": self._look_up(code[key])}
        check_finite(code["z"], _FAR)
        return code

    def sample_posterior(
        self, x: ArrayLike, seed: int = 0, label: ArrayLike | None = None
    ) -> Float[np.ndarray, "n ..."]:
        """Returns a sample [n, *latent] of the posterior of each x, where `encode` returns its mean.

        Of several importance samples, returns the first. Returns `encode(x)` for a deterministic code.
        """
        x = self._check(x)
        keys = jax.random.split(jax.random.key(arguments.check_seed(seed)), len(x))
        draw = lambda x, keys, *label: self.compiled.code(x, *label, keys=keys)["z"]  # noqa: E731
        sampled = self._map(draw, x, label, keys, encodes=True)
        check_finite(sampled, _FAR)
        return sampled

    @functools.cached_property
    def abstract_code(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns shapes and dtypes of `code` for a batch of one example, without computing it."""
        label = [np.zeros(1, np.int32)] if self.config.classes else []
        return jax.eval_shape(self.compiled.code, jax.ShapeDtypeStruct((1, *self.spec.shape), np.float32), *label)

    def indices(self, x: ArrayLike, label: ArrayLike | None = None) -> Int[np.ndarray, "n ..."]:
        """Returns the discrete codes of x, int32 [n, ...]. Raises InputError if the codes are continuous."""
        code = self.code(x, label)
        if "indices" not in code:
            raise InputError(f"bottleneck {self.config.bottleneck.name!r} has no discrete codes; use encode")
        return code["indices"]

    def lookup(self, indices: ArrayLike) -> Float[np.ndarray, "n ..."]:
        """Returns the latents [n, *latent] of discrete codes [n, ...], as `indices` returns them, for `decode`.

        Of `residual_vq`, the first levels alone are codes, too: `indices[..., :k]`.
        """
        indices, size = as_array(indices, "codes"), self.codebook_size
        if size is None:
            raise InputError(f"bottleneck {self.config.bottleneck.name!r} has no discrete codes; use decode")
        if indices.dtype.kind not in "iu" or not indices.size or indices.min() < 0 or indices.max() >= size:
            given = f"{indices.min()} to {indices.max()}" if indices.size else "none"
            raise InputError(f"codes must be whole numbers from 0 to {size - 1}, got {given} ({indices.dtype})")
        shape = self.abstract_code["indices"].shape[1:]
        if getattr(self.model.bottleneck, "prefixes", 0) and 0 < indices.shape[-1] < shape[-1]:
            shape = (*shape[:-1], indices.shape[-1])
        if indices.shape[1:] != shape and not (self.any_size and indices.ndim == 1 + len(shape)):
            raise InputError(f"the run's codes are (n, *{shape}), the given ones {indices.shape}")
        return self._look_up(indices.astype(np.int32))

    def decode(
        self, z: ArrayLike, label: ArrayLike | None = None, *, tile: Tile = None, overlap: int | None = None
    ) -> Float[np.ndarray, "n ..."]:
        """Returns the expected x [n, ...] given latents [n, *latent], in tiles as `encode` does."""
        tiles = self._plan_tiles(tile, overlap)
        z = as_array(z, "the latents")
        with np.errstate(over="ignore"):
            z = z.astype(np.float32)
        if z.shape == self.latents.shape[1:]:
            raise InputError(f"the latent {z.shape} is one without its batch axis; give latents [n, ...], e.g. z[None]")
        if not z.size or not self.fits(z.shape[1:], self.latents.shape[1:], tiles is not None):
            raise InputError(f"the run's latents are (n, *{self.latents.shape[1:]}), the given ones {z.shape}")
        check_finite(z, "the latents: example {} holds NaN or infinity in float32; give finite numbers")
        decode = functools.partial(self._map, self.compiled.decode, label=label, own=self.latents.shape[1:])
        decoded = decode(z) if tiles is None else tiles.decode(decode, z)
        check_finite(decoded, "example {} is decoded to NaN or infinity: its latents are far from the run's own")
        return decoded

    def reconstruct(
        self, x: ArrayLike, label: ArrayLike | None = None, *, tile: Tile = None, overlap: int | None = None
    ) -> Float[np.ndarray, "n ..."]:
        """Returns `decode(encode(x))`, in tiles as `encode` does; with `skip`, plus the linear map of x.

        Where a sequence has ended, so has its reconstruction, in NaN. Missing values are reconstructed, too, see
        `impute`. A likelihood of counts with an observed library gives the reconstruction the total of x.
        """
        if self.model.skip or self.likelihood.reads_input:
            return self._map(self.compiled.reconstruct, self._check(x), label)
        decoded = self.decode(self.encode(x, label, tile=tile, overlap=overlap), label, tile=tile, overlap=overlap)
        return np.where(np.isnan(self._check(x)), np.float32(np.nan), decoded) if self.spec.padded else decoded

    def impute(self, x: ArrayLike, label: ArrayLike | None = None) -> Float[np.ndarray, "n ..."]:
        """Returns x with `reconstruct(x)` in the place of missing values, for a run with data.missing=True.

        Raises InputError for other runs.
        """
        if not self.spec.missing and not self.spec.columns:
            raise InputError("the run was trained without missing values; train it with data.missing=True to impute")
        x = as_array(fill_masked(self.spec.encode(x)), "the input")
        return np.where(np.isnan(x), self.reconstruct(x, label).reshape(x.shape), x)

    def elbo(
        self, x: ArrayLike, seed: int = 0, label: ArrayLike | None = None, scale: float | None = None
    ) -> Float[np.ndarray, " n"]:
        """Returns the evidence lower bound of log p(x) of each example, [n] in nats, from one sample of its code.

        The KL has weight 1, whatever weight the run was trained with. The other arguments are those of
        `log_likelihood`. Raises InputError if the run has no density of x, or its code no KL.
        """
        if reason := self.density.no_elbo:
            raise InputError(reason)
        return self.density.parts(x, seed, label, scale).elbo

    def log_likelihood(
        self,
        x: ArrayLike,
        samples: int = 200,
        seed: int = 0,
        label: ArrayLike | None = None,
        scale: float | None = None,
    ) -> Float[np.ndarray, " n"]:
        """Returns log p(x) of each example by importance sampling from q(z|x), [n] in nats.

        It is the logarithm of the mean of `samples` weights p(x, z) / q(z|x) (Burda et al. 2016, equation 8): in
        expectation a lower bound of log p(x), and tighter with more samples. Memory does not grow with their number.
        The density is that of x in the user's units. The noise of an example depends on its own values and `seed`.
        `density.estimate` also returns the standard error and the number of effective samples, and `density.anneal`
        estimates log p(x) without q. Warns if few of 50 or more samples are effective.

        Args:
          x: examples [n, ...], as `encode` takes them.
          samples: number of importance samples for each example.
          seed: seed of the samples.
          label: [n], if the run is conditional; the result is log p(x | label).
          scale: scale of a likelihood with variance="optimal", in the units that the model reads; defaults to
            `density.optimal_scale(x)`.

        Raises InputError if the run has no density of x, or no posterior and prior for the weights.
        """
        found = self.density.estimate(x, samples, seed, label, scale)
        warn_of_few(found, samples)
        return found.log_likelihood

    def in_users_units(self, x: ArrayLike) -> Float[np.ndarray, "n ..."]:
        """Returns x as float32, images in [0, 1], for comparison with `reconstruct(x)`."""
        x = self._check(x)
        parts = (self.spec.restore(self.spec.prepare(x[i : i + 4096])) for i in range(0, len(x), 4096))
        return np.concatenate([np.asarray(part) for part in parts])

    def generate(
        self,
        num: int,
        seed: int = 0,
        label: ArrayLike | None = None,
        sampler: "Sampler | None" = None,
        temperature: Temperature = 1.0,
        draw: bool | None = None,
    ) -> Float[np.ndarray, "{num} ..."]:
        """Decodes `num` samples of `sampler`, see `aejax.samplers`, or of the model's prior, to x [num, ...].

        `temperature` multiplies the standard deviations of a normal prior. Those of a hierarchy may be one for each
        layer, which are counted from the data up.

        With `draw`, x is a sample of the likelihood, otherwise its mean; by default a sample of counts, categories and
        levels, see `Likelihood.draws`, and the mean of others.

        Without a sampler or a prior, samples are based on the saved latents: each position of a discrete code is
        sampled from the codes found there, and continuous latents from a Gaussian with their mean and covariance.
        Warns if all saved latents are equal. Raises InputError for a sampler that does not fit the run.
        """
        seed = arguments.check_seed(seed)
        # Bytes per example: two copies while batches are concatenated; latents as float64 and float32.
        each = 8 * math.prod(self.spec.shape) + 12 * math.prod(self.latents.shape[1:])
        num = arguments.check_count("generate", num, each)
        check_labels(label, num, self.config.classes)  # raises before anything is sampled
        z = sample_latents(self, num, seed, sampler, temperature)
        draws = self.likelihood.draws if draw is None else draw
        return self._decode_samples(z, label, seed) if draws else self.decode(z, label)

    def _decode_samples(self, z: np.ndarray, label: ArrayLike | None, seed: int) -> Float[np.ndarray, "n ..."]:
        """Returns a sample of the likelihood for each of the latents z [n, *latent]."""
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), 1), len(z))
        drawn = self._map(self.compiled.draw, z, label, keys, own=self.latents.shape[1:])
        check_finite(drawn, "example {} is decoded to NaN or infinity: its latents are far from the run's own")
        return drawn

    def complete(self, z: ArrayLike, layer: int) -> Float[np.ndarray, "n d"]:
        """Returns latents z [n, d] of a hierarchy with the layers below `layer` at the prior's means given those above.

        Layers are counted from the data up. Raises InputError for a run without layers, or that has no such layer.
        """
        z = as_array(z, "the latents").astype(np.float32)
        if not self.density.layers:
            raise InputError(f"bottleneck {self.config.bottleneck.name!r} has no layers of latent units; use decode")
        if z.shape[1:] != self.latents.shape[1:]:
            raise InputError(f"the run's latents are (n, *{self.latents.shape[1:]}), the given ones {z.shape}")
        prior: Any = self.model.apply(self.compiled.variables, method="prior")
        return complete(prior, z, layer, self.spec.shape)

    def _check(self, x: ArrayLike, tiled: bool = False) -> np.ndarray:
        """Returns x as `Spec.check` does, of other sides than the spec's if the model takes them, or in tiles."""
        if is_sparse(x):
            return self.spec.check(x)
        x = self.spec.encode(x)
        x = as_array(fill_masked(x) if self.spec.missing else x, "the input")
        fits = self.fits(x.shape[1:], tiled=tiled)
        if self.any_size and x.ndim == 4:
            if not fits:
                channels = self.spec.shape[-1]
                raise InputError(f"the run reads images [n, height, width, {channels}], the input's shape is {x.shape}")
            check_images(x.shape[1], x.shape[2], self.spec.shape[0] // self.latents.shape[1])
        shape = x.shape[1:] if fits else self.spec.shape
        if self.any_size and self.fits(x.shape):
            shape = x.shape  # one image without its batch axis, which the spec tells
        return dataclasses.replace(self.spec, shape=shape).check(x)

    def _plan_tiles(self, tile: Tile, overlap: int | None) -> Tiles | None:
        return plan_tiles(tile, overlap, self.spec.shape, self.latents.shape[1:], self.any_size)

    def _look_up(self, indices: np.ndarray) -> np.ndarray:
        return map_batches(self.compiled.lookup, indices, (), limit_batch(self.spec.shape))

    def _map(
        self,
        function: Callable,
        x: np.ndarray,
        label: ArrayLike | None,
        *more: Any,
        own: Sequence[int] | None = None,
        encodes: bool = False,
    ) -> Any:
        """Applies a function of (x, *more, label) in batches. Raises InputError for labels that do not fit x.

        `own` is the shape of one such x for examples of the spec's shape, which it defaults to; others may be larger. A
        function that only encodes needs no labels if the encoder reads none.
        """
        needless = encodes and label is None and not self.model.label_to_encoder
        labels = () if needless else check_labels(label, len(x), self.config.classes)
        times = -(-math.prod(x.shape[1:]) // math.prod(self.spec.shape if own is None else own))
        return map_batches(function, x, (*more, *labels), limit_batch((*self.spec.shape, times)))

    @functools.cached_property
    def in_numbers(self) -> "TrainedModel":
        """Returns the model whose methods return tables as encoded numbers, as those of a `TrainedModel` do."""
        if not self.spec.columns or type(self) is TrainedModel:
            return self
        return TrainedModel(**{field.name: getattr(self, field.name) for field in dataclasses.fields(TrainedModel)})
