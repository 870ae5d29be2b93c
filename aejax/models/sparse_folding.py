"""The normalization of the input, folded into the weights of a sparse autoencoder."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike


def fold_normalization(
    params: Mapping[str, ArrayLike], scale: ArrayLike = 1.0, mean: ArrayLike = 0.0, pre_bias: bool = True
) -> dict[str, np.ndarray]:
    """Returns weights that read and write x where `params` read and write (x - mean) / scale; the code stays the same.

    Args:
      params: `W_enc` [d, features], `b_enc` [features], `W_dec` [features, d] and `b_dec` [d]; others stay as they are.
      scale, mean: of the run's `spec`, `deviation` and `mean`: [d], or one number for all.
      pre_bias: whether the model subtracts `b_dec` from what it encodes.
    """
    w = {name: np.asarray(value) for name, value in params.items()}
    d = w["W_enc"].shape[0]
    scale, mean = (np.broadcast_to(np.asarray(a, np.float64), d) for a in (scale, mean))
    folded = {
        "W_enc": w["W_enc"] / scale[:, None],
        "b_enc": w["b_enc"] if pre_bias else w["b_enc"] - (mean / scale) @ w["W_enc"],
        "W_dec": w["W_dec"] * scale,
        "b_dec": w["b_dec"] * scale + mean,
    }
    return w | {name: np.asarray(value, w[name].dtype) for name, value in folded.items()}
