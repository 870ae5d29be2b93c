"""An autoencoder as a scikit-learn outlier detector."""

from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import OutlierMixin

from aejax.data import measure_columns
from aejax.errors import InputError, shown
from aejax.sklearn.base import Estimator, find_residuals, iterate_rows, score_by_density

_ROWS = 256  # in a batch of rows that are scored
_LEAST = 0.05  # of a column's standard deviation: what its residuals are at least taken to vary by


class AutoencoderOutlierDetector(OutlierMixin, Estimator):
    """An autoencoder that finds the rows of X [n, features] which it explains badly.

    It trains as `AutoencoderTransformer` does, by default on standardized columns, and takes the same arrays,
    DataFrames and sparse matrices. X may hold outliers, as long as they are few. A row is an outlier by its residuals,
    which the code cannot explain, or by its code, if that is far from others; see `score_samples`.

    Args:
      n_components: number of values in a code. None: the fewest principal components that explain half of the variance
        of X, fewer than columns; of a sparse matrix of more than 1,000 columns, 63 at most.
      contamination: fraction of outliers in X, above 0 and up to 0.5, which `fit` turns into the threshold `offset_`.
        "auto": outliers are below Tukey's fence, the lower quartile of the scores of X minus 1.5 times the distance of
        its quartiles.
      hidden, steps, batch_size, learning_rate, standardize, config, random_state, verbose: as in
        `AutoencoderTransformer`.

    Attributes:
      run_: the trained `aejax.Run`.
      offset_: the score below which a row is an outlier.
      n_features_in_: number of columns of X.
      feature_names_in_: names of the columns, if X is a DataFrame.

    Raises InputError, which is a ValueError.
    """

    def __init__(
        self,
        n_components=None,
        *,
        contamination="auto",
        hidden=None,
        steps=None,
        batch_size=128,
        learning_rate=3e-4,
        standardize=True,
        config=None,
        random_state=None,
        verbose=0,
    ):
        self.n_components = n_components
        self.contamination = contamination
        self.hidden = hidden
        self.steps = steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.standardize = standardize
        self.config = config
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: ArrayLike, y: object = None) -> "AutoencoderOutlierDetector":
        """Trains on X [n, features] and chooses the threshold; y is ignored."""
        fraction = self.contamination
        known = isinstance(fraction, Real) and 0 < float(fraction) <= 0.5
        if not known and not (isinstance(fraction, str) and fraction == "auto"):
            raise InputError(f"contamination must be 'auto' or a fraction above 0 and up to 0.5, got {shown(fraction)}")
        x = self._read(X, reset=True)
        self.run_ = self._train(x)
        self._measure_scales(x)
        scores = self._score(x)
        if known:
            self.offset_ = float(np.percentile(scores, 100 * float(fraction)))
        else:
            low, high = np.percentile(scores, [25, 75])
            self.offset_ = float(low - 1.5 * (high - low))
        return self

    def score_samples(self, X: ArrayLike) -> np.ndarray:
        """Returns how usual each row of X is, [n]; outliers have low scores.

        The score is minus the sum of two squared distances: of the residuals of the reconstruction, each column in
        units of the root mean square that its residuals have in training, but of 5% of its standard deviation at least;
        and of the code from its mean, in units of its standard deviations. If the run of `config` has a density, the
        score is the bound of log p(x) of `AutoencoderTransformer.score_samples` instead.
        """
        return self._score(self._read(X))

    def decision_function(self, X: ArrayLike) -> np.ndarray:
        """Returns `score_samples` minus `offset_`, [n]: negative for outliers."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: ArrayLike) -> np.ndarray:
        """Returns -1 for the outliers of X and 1 for the other rows, [n]."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def _measure_scales(self, x: Any) -> None:
        """Measures the mean and standard deviation of codes, and the scale of each column's residuals."""
        z = self.run_.encode(x).reshape(x.shape[0], -1)
        self._codes = z.mean(0), _avoid_zero(z.std(0))
        squares = sum(np.square(find_residuals(self.run_, part)).sum(0, np.float64) for part in iterate_rows(x))
        spread = measure_columns(x)[1] / (np.array(self.run_.spec.deviation) if self.run_.spec.mean else 1)
        self._residual_scale = _avoid_zero(np.maximum(np.sqrt(squares / x.shape[0]), _LEAST * spread))

    def _score(self, x: Any) -> np.ndarray:
        parts = []
        for part in iterate_rows(x, _ROWS):  # programs of one shape, so that a row's score depends on no other row
            padded = np.concatenate([part, np.repeat(part[-1:], _ROWS - len(part), 0)])
            parts.append(self._score_part(padded)[: len(part)])
        return np.concatenate(parts).astype(np.float64)

    def _score_part(self, x: np.ndarray) -> np.ndarray:
        density = score_by_density(self.run_, x)
        if density is not None:
            return density
        residuals = find_residuals(self.run_, x) / self._residual_scale
        mean, deviation = self._codes
        code = (self.run_.encode(x).reshape(len(x), -1) - mean) / deviation
        return -np.square(residuals).sum(1) - np.square(code).sum(1)


def _avoid_zero(scale: np.ndarray) -> np.ndarray:
    """Returns the scales, 1 for those that are 0: values that never varied keep their units."""
    return np.where(scale > 0, scale, 1.0)
