"""An autoencoder as a scikit-learn transformer."""

import functools
import inspect
import math
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.decomposition import PCA
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from aejax import config as config_lib
from aejax.data import Spec, from_array, needs_standardizing, split
from aejax.errors import InputError
from aejax.inference.run import Run
from aejax.models import pca
from aejax.training.loop import fit

_SAMPLES = 16  # of the posterior, for a bound of the likelihood


class AutoencoderTransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """An autoencoder that encodes X [n, features] into codes [n, components], float32.

    A transformer for pipelines and searches. It trains by `aejax.fit` on one device, prints nothing and leaves nothing
    on disk. If the hidden layers are at least twice as wide as the code, training starts from the principal component
    analysis of X and improves on it. It trains on every row of X, unless `config.data` says otherwise. Pickles and
    joblib files hold arrays and the config, nothing compiled.

    Args:
      n_components: number of values in a code.
      hidden: widths of the encoder's hidden layers (relu), which the decoder mirrors. None: one layer of
        max(64, 4 * `n_components`) units.
      steps: number of training steps (Adam). None: 50 passes over X, 1,000 steps at most.
      batch_size: number of rows in a step, fewer if X has fewer.
      learning_rate: initial learning rate, which falls to 0 along a cosine.
      standardize: whether vectors are standardized to mean 0 and standard deviation 1; codes are decoded to X's own
        units. "auto": if the scales of the columns differ widely or are far from 1.
      image_shape: (height, width) or (height, width, channels) of images. X holds them flattened, as numbers in [0, 1]
        or uint8 of 0 to 255, and decoded images lie in [0, 1]. They are not standardized.
      config: config of the whole experiment, see `aejax.config.default`, which replaces all of the above except
        `image_shape`; its `seed` is sampled from `random_state`. Conditional models raise InputError, since `transform`
        takes no labels.
      random_state: source of randomness for initialization, batches and noise.
      verbose: above 0, training prints its progress.

    Attributes:
      run_: the trained `aejax.Run`, whose methods take X unflattened.
      n_features_in_: number of columns of X.

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

    def fit(self, X: ArrayLike, y: object = None) -> "AutoencoderTransformer":
        """Trains on X [n, features]; y is ignored."""
        x = self._shape_rows(validate_data(self, X, dtype=_DTYPES))
        config = self._build_config(x)
        config.seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        if config.classes:
            raise InputError(f"config.classes={config.classes} makes the model conditional; set it to 0")
        if not any(config.data[part] for part in ("train", "validation", "test")):
            config.data.update({"train": "train", "validation": "train", "test": "train"})
        if self.image_shape is not None:
            config.data.kind = "image"
        source = from_array(x, kind=config.data.kind, unit=self.image_shape is not None)
        config.batch_size = min(config.batch_size, len(split({"train": source}, config.data).train))
        start = self._start_from_pca(config, x)
        self.run_: Run = fit(config, x, devices=jax.local_devices()[:1], quiet=not self.verbose, adjust=start)
        self._n_features_out = math.prod(self.run_.latents.shape[1:])
        return self

    def transform(self, X: ArrayLike) -> np.ndarray:
        """Encodes X into codes [n, components], deterministically: by the mean of a posterior."""
        x = self._check_rows(X)
        return self.run_.encode(x).reshape(len(x), -1)

    def inverse_transform(self, X: ArrayLike) -> np.ndarray:
        """Decodes codes [n, components] into rows [n, features], in X's units."""
        check_is_fitted(self)
        z = check_array(X, dtype=np.float32)
        if z.shape[1] != self._n_features_out:
            raise InputError(f"codes have {self._n_features_out} components, the given ones {z.shape[1]}")
        return self.run_.decode(z.reshape(len(z), *self.run_.latents.shape[1:])).reshape(len(z), -1)

    def score_samples(self, X: ArrayLike) -> np.ndarray:
        """Returns how well the model explains each row of X, [n]; outliers have low scores.

        If the run has a density, the score is a lower bound of log p(x) in nats, log mean_k p(x, z_k) / q(z_k | x) over
        16 samples of the posterior (Burda et al. 2016, equation 8), in X's units. The noise of the samples depends only
        on the row's values. A run has a density if its bottleneck is Gaussian and its likelihood is not squared_error,
        absolute_error or one with variance="optimal".

        Otherwise it is minus the squared error of the deterministic reconstruction, summed over values, in the units
        that the model reads: standard deviations, if it standardizes.
        """
        x, run = self._check_rows(X), self.run_
        if run.density.no_weights is None and not run.density.is_optimal:
            return run.log_likelihood(x, _SAMPLES)
        target = np.asarray(run.spec.prepare(run.spec.check(x)))
        error = np.asarray(run.spec.standardize(run.reconstruct(x))) - target
        return -np.square(error.reshape(len(x), -1)).sum(1)

    def score(self, X: ArrayLike, y: object = None) -> float:
        """Returns the mean of `score_samples`, which a search maximizes."""
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

    def _build_config(self, x: np.ndarray) -> ConfigDict:
        """Returns `config`, or the config that the other parameters describe."""
        if self.config is not None:
            defaults = inspect.signature(type(self)).parameters
            changed = [key for key in _IN_CONFIG if getattr(self, key) != defaults[key].default]
            if changed:
                raise InputError(f"config= replaces {', '.join(changed)}: set them in the config")
            return self.config.copy_and_resolve_references().unlock()
        config = config_lib.default()
        steps = self.steps
        if steps is None:
            steps_per_pass = max(len(x) // min(self.batch_size, len(x)), 1)
            steps = min(50 * steps_per_pass, 1000)
        config.steps = config.checkpoint_every = steps
        config.batch_size, config.optim.lr, config.optim.schedule = self.batch_size, self.learning_rate, "cosine"
        hidden = (max(64, 4 * self.n_components),) if self.hidden is None else tuple(self.hidden)
        config.encoder = config_lib.module("mlp", features=hidden)
        config.bottleneck = config_lib.module("dense", features=self.n_components)
        config.decoder = config_lib.module("mlp", features=hidden[::-1])
        if self.image_shape is not None:
            config.data.standardize = False
        else:
            config.data.standardize = bool(needs_standardizing(x) if self.standardize == "auto" else self.standardize)
        return config

    def _start_from_pca(self, config: ConfigDict, x: np.ndarray) -> Any:
        """Returns a function that sets initial parameters to PCA, or None if they cannot express it."""
        if self.config is not None:
            return None
        k = self.n_components
        if not 1 <= k <= min(len(x), math.prod(x.shape[1:])) or any(width < 2 * k for width in config.encoder.features):
            return None
        spec = Spec.of(from_array(x), config.data.standardize)
        fitted = PCA(k, random_state=config.seed).fit(np.asarray(spec.prepare(spec.check(x))).reshape(len(x), -1))
        return functools.partial(pca.initialize, fitted.components_, fitted.mean_)

    def _check_rows(self, X: ArrayLike) -> np.ndarray:
        check_is_fitted(self)
        return self._shape_rows(validate_data(self, X, dtype=_DTYPES, reset=False))

    def _shape_rows(self, x: np.ndarray) -> np.ndarray:
        """Reshapes rows [n, features] to the images that the run reads, if `image_shape` is given."""
        if self.image_shape is None:
            return x
        if math.prod(self.image_shape) != x.shape[1]:
            raise InputError(f"image_shape={tuple(self.image_shape)} does not make {x.shape[1]} features")
        return x.reshape(len(x), *self.image_shape)


_DTYPES = [np.float32, np.uint8]  # other dtypes are converted to the first
_IN_CONFIG = ("n_components", "hidden", "steps", "batch_size", "learning_rate", "standardize")
