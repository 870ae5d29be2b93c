"""An autoencoder as a scikit-learn transformer."""

import math

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_array, check_is_fitted

from aejax.errors import InputError
from aejax.sklearn.base import Estimator, find_residuals, iterate_rows, score_by_density


class AutoencoderTransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, Estimator):
    """An autoencoder that encodes X [n, features] into codes [n, components], float32.

    A transformer for pipelines and searches. It trains by `aejax.fit` on one device, prints nothing and leaves nothing
    on disk. If the hidden layers are at least twice as wide as the code, training starts from the principal component
    analysis of X and improves on it. It trains on every row of X, unless `config.data` says otherwise. Pickles and
    joblib files hold arrays and the config, nothing compiled.

    X is an array, a DataFrame of numbers, whose names of columns later ones must have, too, or a sparse matrix, which
    stays sparse until a batch is read. `set_output(transform="pandas")` makes DataFrames of codes. Values that are NaN
    or infinite raise InputError, as do more components than columns; columns of one value are warned of where they are
    to be standardized.

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
      feature_names_in_: names of the columns, if X is a DataFrame.

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
        self.run_ = self._train(self._read(X, reset=True))
        return self

    def partial_fit(self, X: ArrayLike, y: object = None) -> "AutoencoderTransformer":
        """Trains on X [n, features] as one more part of the data; y is ignored.

        Takes one step on each `batch_size` rows, in their order, and keeps the state of the optimizer, so that parts
        whose lengths are multiples of `batch_size` train as one call with all of them would. The first call sets
        `n_features_in_`, how columns are standardized and the start from PCA, and so should have a few hundred rows.
        After `fit`, the first call begins with the fitted parameters. The learning rate is constant, and `steps` is not
        read; that of `config` follows its schedule.
        """
        x = self._read(X, reset=not hasattr(self, "run_"))
        self.run_ = self._train_more(x)
        return self

    @property
    def _n_features_out(self) -> int:
        return math.prod(self.run_.latents.shape[1:])

    def transform(self, X: ArrayLike) -> np.ndarray:
        """Encodes X into codes [n, components], deterministically: by the mean of a posterior."""
        x = self._read(X)
        return self.run_.encode(x).reshape(x.shape[0], -1)

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
        return np.concatenate([self._score(part) for part in iterate_rows(self._read(X))])

    def score(self, X: ArrayLike, y: object = None) -> float:
        """Returns the mean of `score_samples`, which a search maximizes."""
        return float(self.score_samples(X).mean())

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    def _score(self, x: np.ndarray) -> np.ndarray:
        density = score_by_density(self.run_, x)
        return -np.square(find_residuals(self.run_, x)).sum(1) if density is None else density
