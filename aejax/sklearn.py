"""An autoencoder as a scikit-learn transformer."""

import functools
import inspect
import math
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.decomposition import PCA
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from aejax import config as config_lib
from aejax.data import Spec, from_array, needs_standardizing, split
from aejax.errors import InputError
from aejax.evaluation import likelihood
from aejax.inference.run import Run
from aejax.models import pca
from aejax.training.loop import fit

_DRAWS = 16  # of the posterior, for a bound of the likelihood


class AutoencoderTransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """An autoencoder that is fitted to X [n, features] and turns it into codes [n, components], float32.

    A transformer for pipelines and searches, by `aejax.fit` on one device, without anything printed or left on disk.
    Training starts from the principal component analysis of X and improves on it, where the hidden layers are at least
    twice as wide as the code. Every row of X is trained on, unless `config.data` says otherwise. Pickles and joblib
    files hold arrays and the config, nothing compiled.

    Args:
      n_components: numbers of a code.
      hidden: widths of the encoder's hidden layers (relu); the decoder mirrors them. None: one layer, of 64 units or
        four times `n_components`.
      steps: of training (Adam), each on `batch_size` rows, fewer where X has fewer. None: 50 passes over X, 1,000
        steps at most.
      learning_rate: falls to 0 along a cosine.
      standardize: whether vectors are read with mean 0 and standard deviation 1; codes are decoded to X's own units.
        "auto": where the scales of the columns differ widely or are far from 1.
      image_shape: (height, width) or (height, width, channels) of images, which go in and come out flattened, as
        numbers in [0, 1] or, going in, uint8 of 0 to 255. They are not standardised.
      config: of the whole experiment, see `aejax.config.default`, in place of all of the above but `image_shape`; its
        `seed` is drawn from `random_state`. Conditional models are refused, since `transform` has no labels.
      random_state: of initialisation, batches and noise.
      verbose: above 0, prints what a training prints.

    Attributes:
      run_: the trained `aejax.Run`; `run_.encode` and the rest take X unflattened.
      n_features_in_: columns of X.

    Raises InputError, which is a ValueError.
    """

    def __init__(
        self,
        n_components=2,
        *,
        hidden=None,
        steps=None,
        batch_size=128,
        learning_rate=3e-4,
        standardize="auto",
        image_shape=None,
        config=None,
        random_state=None,
        verbose=0,
    ):
        self.n_components = n_components
        self.hidden = hidden
        self.steps = steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.standardize = standardize
        self.image_shape = image_shape
        self.config = config
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None) -> "AutoencoderTransformer":
        """Trains on X [n, features]; y is not read."""
        x = self._examples(validate_data(self, X, dtype=_DTYPES))
        config = self._config(x)
        config.seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        if config.classes:
            raise InputError(f"config.classes={config.classes} makes the model conditional; set it to 0")
        if not any(config.data[part] for part in ("train", "validation", "test")):
            config.data.update({"train": "train", "validation": "train", "test": "train"})
        config.batch_size = min(config.batch_size, len(split({"train": from_array(x)}, config.data).train))
        self.run_: Run = fit(
            config, x, devices=jax.local_devices()[:1], quiet=not self.verbose, adjust=self._start(config, x)
        )
        self._n_features_out = math.prod(self.run_.latents.shape[1:])
        return self

    def transform(self, X: Any) -> np.ndarray:
        """The code of X, [n, components]: deterministic, the mean of a posterior."""
        x = self._given(X)
        return self.run_.encode(x).reshape(len(x), -1)

    def inverse_transform(self, X: Any) -> np.ndarray:
        """Codes [n, components] to what they stand for, [n, features], in X's units."""
        check_is_fitted(self)
        z = check_array(X, dtype=np.float32)
        if z.shape[1] != self._n_features_out:
            raise InputError(f"codes have {self._n_features_out} components, the given ones {z.shape[1]}")
        return self.run_.decode(z.reshape(len(z), *self.run_.latents.shape[1:])).reshape(len(z), -1)

    def score_samples(self, X: Any) -> np.ndarray:
        """How normal each row of X is, [n]: the higher, the more.

        Where the run has a density, its bound of log p(x) in nats: log mean_k p(x, z_k) / q(z_k | x) over 16 draws of
        the posterior (Burda et al. 2016, equation 8), made of the row's own values, in X's units. A run has one where
        its bottleneck is Gaussian and its likelihood is normalised and fixed or learned: not squared_error,
        absolute_error, or variance="optimal", which is of a batch.

        Otherwise minus the squared error of the deterministic reconstruction, summed over values, in the units that
        the model reads: deviations, where it standardises.
        """
        x, run = self._given(X), self.run_
        if likelihood.no_weights(run) is None and not likelihood.is_optimal(run):
            return likelihood.log_likelihood(run, x, _DRAWS)
        spec, flat = run.spec, lambda a: np.asarray(a).reshape(len(x), -1)
        return -np.square(flat(spec.standardize(run.reconstruct(x))) - flat(spec.prepare(spec.check(x)))).sum(1)

    def score(self, X: Any, y: Any = None) -> float:
        """The mean of `score_samples`: what a search maximises."""
        return float(self.score_samples(X).mean())

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        return state | {"config": self.config and config_lib.to_dict(self.config)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        config = state["config"]
        super().__setstate__(state | {"config": config and config_lib.from_dict(config)})

    def _config(self, x: np.ndarray) -> ConfigDict:
        if self.config is not None:
            defaults = inspect.signature(type(self)).parameters
            both = [key for key in _IN_CONFIG if getattr(self, key) != defaults[key].default]
            if both:
                raise InputError(f"config= is in place of {', '.join(both)}: set them in the config")
            return self.config.copy_and_resolve_references().unlock()
        config = config_lib.default()
        passes = 50 * max(len(x) // min(self.batch_size, len(x)), 1) if self.steps is None else 0
        config.steps = config.checkpoint_every = min(passes, 1000) if self.steps is None else self.steps
        config.batch_size, config.optim.lr, config.optim.schedule = self.batch_size, self.learning_rate, "cosine"
        hidden = (max(64, 4 * self.n_components),) if self.hidden is None else tuple(self.hidden)
        config.encoder = config_lib.module("mlp", features=hidden)
        config.bottleneck = config_lib.module("dense", features=self.n_components)
        config.decoder = config_lib.module("mlp", features=hidden[::-1])
        automatic = self.standardize == "auto" and self.image_shape is None and needs_standardizing(x)
        config.data.standardize = bool(automatic if self.standardize == "auto" else self.standardize)
        config.data.standardize &= self.image_shape is None
        return config

    def _start(self, config: ConfigDict, x: np.ndarray) -> Any:
        """Returns what starts training from PCA, or None where the layers have no room for it."""
        k, widths = self.n_components, config.encoder.get("features", ())
        if (
            self.config is not None
            or not 1 <= k <= min(len(x), math.prod(x.shape[1:]))
            or min(widths, default=2 * k) < 2 * k
        ):
            return None
        spec = Spec.of(from_array(x), config.data.standardize)
        found = PCA(k, random_state=config.seed).fit(np.asarray(spec.prepare(spec.check(x))).reshape(len(x), -1))
        return functools.partial(pca.start, found.components_, found.mean_)

    def _given(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        return self._examples(validate_data(self, X, dtype=_DTYPES, reset=False))

    def _examples(self, x: np.ndarray) -> np.ndarray:
        """Rows as the run reads them."""
        if self.image_shape is None:
            return x
        if math.prod(self.image_shape) != x.shape[1]:
            raise InputError(f"image_shape={tuple(self.image_shape)} does not make {x.shape[1]} features")
        return x.reshape(len(x), *self.image_shape)


_DTYPES = [np.float32, np.uint8]  # others become the first
_IN_CONFIG = ("n_components", "hidden", "steps", "batch_size", "learning_rate", "standardize")
