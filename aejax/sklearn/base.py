"""What the estimators share: reading X, the config that their parameters describe, and training."""

import functools
import inspect
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.decomposition import PCA
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from aejax import config as config_lib
from aejax.data import Source, Spec, from_array, from_sparse, is_sparse, measure_columns, needs_standardizing, split
from aejax.errors import InputError
from aejax.inference.run import Run
from aejax.models import pca
from aejax.training.incremental import Incremental
from aejax.training.loop import fit

Adjust = Callable[[Any], Any] | None  # sets the initial parameters

_DTYPES = [np.float32, np.uint8]  # other dtypes are converted to the first
_IN_CONFIG = ("n_components", "hidden", "steps", "batch_size", "learning_rate", "standardize")
_SAMPLES = 16  # of the posterior, for a bound of the likelihood
_EXPLAINED = 0.5  # of the variance, by the components where their number is not given
_WIDE, _FEW = 1_000, 64  # of a sparse matrix of more columns, no more components are computed


class Estimator(BaseEstimator):
    """An autoencoder that trains on X [n, features] by `aejax.fit`, on one device."""

    image_shape: Sequence[int] | None = None

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = self.image_shape is None
        return tags

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        return state | {"config": self.config and config_lib.to_dict(self.config)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        config = state["config"]
        super().__setstate__(state | {"config": config and config_lib.from_dict(config)})

    def _read(self, X: ArrayLike, reset: bool = False) -> Any:
        """Returns X as an array or a CSR matrix, or raises InputError; `reset` sets the names and number of columns."""
        if not reset:
            check_is_fitted(self)
        sparse = "csr" if self.image_shape is None else False
        x = validate_data(self, X, dtype=_DTYPES, accept_sparse=sparse, reset=reset, ensure_all_finite=False)
        _check_values(x, getattr(self, "feature_names_in_", None))
        if self.image_shape is None:
            return x
        if math.prod(self.image_shape) != x.shape[1]:
            raise InputError(f"image_shape={tuple(self.image_shape)} does not make {x.shape[1]} features")
        return x.reshape(len(x), *self.image_shape)

    def _train(self, x: Any) -> Run:
        config, adjust = self._plan(x)
        self.__dict__.pop("_training", None)  # of `partial_fit`, which then begins with this run
        return fit(config, x, devices=jax.local_devices()[:1], quiet=not self.verbose, adjust=adjust)

    def _train_more(self, x: Any) -> Run:
        """Returns the run after one step on each batch of x, in the order of its rows."""
        if not hasattr(self, "_training"):
            run = getattr(self, "run_", None)
            config, adjust = self._plan(x) if run is None else (run.config.copy_and_resolve_references().unlock(), None)
            config.data.name = "array-stream"  # as of what `fit` is given by and by
            if self.config is None:
                config.optim.schedule = "constant"
            self._training = Incremental(config, self._make_source(x, config), adjust, run)
        return self._training.update(x, self.batch_size if self.config is None else self.config.batch_size)

    def _plan(self, x: Any) -> tuple[ConfigDict, Adjust]:
        """Returns `config`, or the config that the other parameters describe and its start."""
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        config, adjust = self._describe(x, seed) if self.config is None else (self._copy_config(), None)
        config.seed = seed
        if not any(config.data[part] for part in ("train", "validation", "test")):
            config.data.update({"train": "train", "validation": "train", "test": "train"})
        if self.image_shape is not None:
            config.data.kind = "image"
        config.batch_size = min(
            config.batch_size, len(split({"train": self._make_source(x, config)}, config.data).train)
        )
        return config, adjust

    def _copy_config(self) -> ConfigDict:
        defaults = inspect.signature(type(self)).parameters
        changed = [key for key in _IN_CONFIG if getattr(self, key) != defaults[key].default]
        if changed:
            raise InputError(f"config= replaces {', '.join(changed)}: set them in the config")
        config = self.config.copy_and_resolve_references().unlock()
        if config.classes:
            raise InputError(f"config.classes={config.classes} makes the model conditional; set it to 0")
        return config

    def _make_source(self, x: Any, config: ConfigDict) -> Source:
        unit = self.image_shape is not None
        return from_sparse(x) if is_sparse(x) else from_array(x, kind="image" if unit else config.data.kind, unit=unit)

    def _describe(self, x: Any, seed: int) -> tuple[ConfigDict, Adjust]:
        """Returns the config that the parameters describe, and a start from PCA unless they cannot express it."""
        config = config_lib.default()
        standardize = self.standardize if self.image_shape is None else False
        measured = measure_columns(x) if standardize else None
        if standardize == "auto":
            standardize = needs_standardizing(x, measured)
        config.data.standardize = bool(standardize)
        if measured is not None and standardize:
            _check_columns(x, measured[1], getattr(self, "feature_names_in_", None))
        spec = Spec.of(self._make_source(x, config), config.data.standardize)
        count, width, k = x.shape[0], math.prod(spec.shape), self.n_components
        if isinstance(k, int) and k > width:
            raise InputError(f"n_components={k} exceeds n_features={width}; give at most {width}")
        components, mean, ratio = _fit_pca(x, spec, k, seed)
        if k is None:
            k = min(int(np.searchsorted(np.cumsum(ratio), _EXPLAINED)) + 1, max(len(ratio) - 1, 1))
        hidden = (max(64, 4 * k),) if self.hidden is None else tuple(self.hidden)
        config.encoder = config_lib.module("mlp", features=hidden)
        config.bottleneck = config_lib.module("dense", features=k)
        config.decoder = config_lib.module("mlp", features=hidden[::-1])
        config.steps = self.steps
        if self.steps is None:
            config.steps = min(50 * max(count // min(self.batch_size, count), 1), 1000)
        config.checkpoint_every = config.steps
        config.batch_size, config.optim.lr, config.optim.schedule = self.batch_size, self.learning_rate, "cosine"
        if len(components) < k or any(units < 2 * k for units in hidden):
            return config, None
        return config, functools.partial(pca.initialize, jnp.asarray(components[:k]), jnp.asarray(mean))


def iterate_rows(x: Any, size: int = 4_096) -> Iterator[np.ndarray]:
    """Yields the rows of an array or of a sparse matrix, `size` at a time, as arrays."""
    for start in range(0, x.shape[0], size):
        part = x[start : start + size]
        yield part.toarray() if is_sparse(part) else part


def score_by_density(run: Run, x: np.ndarray) -> np.ndarray | None:
    """Returns a lower bound of log p(x) [n] by samples of the posterior, or None if the run has no density of a row."""
    if run.density.no_weights is not None or run.density.is_optimal:
        return None
    return run.log_likelihood(x, _SAMPLES)


def find_residuals(run: Run, x: np.ndarray) -> np.ndarray:
    """Returns the reconstruction minus x, flat [n, values], in the units that the model reads."""
    target = np.asarray(run.spec.prepare(run.spec.check(x)))
    return (np.asarray(run.spec.standardize(run.reconstruct(x))) - target).reshape(len(x), -1)


def _fit_pca(x: Any, spec: Spec, k: Any, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns components [k, features], mean [features] and explained fractions of variance, in the model's units.

    There are as many as X has if `k` is None, and none if `k` is not a number of components that X has.
    """
    limit, width = min(x.shape[0], math.prod(x.shape[1:])), math.prod(x.shape[1:])
    wide = is_sparse(x) and width > _WIDE
    if k is None:
        k = min(limit - 1, _FEW) if wide else limit
    if not isinstance(k, int) or not 1 <= k <= limit - wide:
        return np.zeros((0, width)), np.zeros(width), np.zeros(0)
    if not is_sparse(x):
        fitted = PCA(k, random_state=seed).fit(np.asarray(spec.prepare(spec.check(x))).reshape(len(x), -1))
        return fitted.components_, fitted.mean_, fitted.explained_variance_ratio_
    deviation = np.array(spec.deviation) if spec.mean else np.ones(width)
    solver = "arpack" if wide else "covariance_eigh"
    fitted = PCA(k, svd_solver=solver, random_state=seed).fit(x.astype(np.float64).multiply(1 / deviation).tocsr())
    return fitted.components_, fitted.mean_ - np.array(spec.mean or 0) / deviation, fitted.explained_variance_ratio_


def _check_values(x: Any, names: np.ndarray | None) -> None:
    """Raises InputError, with the place, if a value is NaN or infinite in float32."""
    values = x.data if is_sparse(x) else x
    if np.isfinite(values).all():
        return
    found = x.tocoo() if is_sparse(x) else None
    places = np.argwhere(~np.isfinite(x)) if found is None else np.stack(found.coords, 1)[~np.isfinite(found.data)]
    row, column = places[0].tolist()
    if found is None and x.shape[1] > 1 and np.isnan(x[row]).all():
        raise InputError(f"X: row {row} has no value, all are NaN; leave it out")
    if np.isnan(x[row, column]):
        cure = "fill missing values first, e.g. by sklearn.impute.SimpleImputer"
        raise InputError(f"X: row {row}, column {_name(column, names)} is NaN; {cure}")
    raise InputError(f"X: row {row}, column {_name(column, names)} is infinity in float32; scale or remove such values")


def _check_columns(x: Any, deviation: np.ndarray, names: np.ndarray | None) -> None:
    """Warns of columns of one value, which cannot be standardized, and raises InputError if there are no others.

    `deviation` holds the standard deviations of the columns. Empty columns of sparse matrices are usual, and no
    warning is given.
    """
    constant = np.flatnonzero(deviation == 0)
    if not len(constant) or x.shape[0] == 1:
        return
    if len(constant) == x.shape[1]:
        raise InputError("X: all rows are alike, every column has one value; there is nothing to learn")
    if is_sparse(x):
        return
    which = ", ".join(_name(column, names) for column in constant[:5].tolist()) + ", ..." * (len(constant) > 5)
    warnings.warn(
        f"X: {len(constant)} columns have one value ({which}), which cannot be standardized: they keep their units",
        stacklevel=2,
    )


def _name(column: int, names: np.ndarray | None) -> str:
    return str(column) if names is None else repr(str(names[column]))
