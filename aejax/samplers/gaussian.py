"""A Gaussian and a mixture of Gaussians.

A factor F [k, d] represents the covariance F^T F: samples are mean + noise F.
"""

import dataclasses
import math
from typing import Any, ClassVar

import numpy as np

from aejax.errors import InputError

_LARGEST = 2**27  # values in the covariances of a mixture: 1 GB in float64


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """A Gaussian with the mean and the full (unbiased) covariance of the latents."""

    discrete: ClassVar[bool] = False

    def fit(self, x: np.ndarray, seed: int) -> dict[str, Any]:
        n, d = x.shape
        mean = x.mean(0, np.float64)
        centered = (x - mean) / math.sqrt(max(n - 1, 1))
        # With fewer examples than latent units, the centered examples are a factor: no d x d matrix is needed.
        factor = centered if n <= d else np.linalg.qr(centered, "r")
        return {"mean": mean.astype(np.float32), "factor": factor.astype(np.float32)}

    def sample(self, params: dict[str, Any], num: int, seed: int) -> np.ndarray:
        factor = params["factor"]
        return params["mean"] + np.random.default_rng(seed).normal(size=(num, len(factor))) @ factor

    def log_prob(self, params: dict[str, Any], x: np.ndarray) -> np.ndarray:
        factor, d = params["factor"], x.shape[1]
        diagonal = np.abs(np.diag(factor))
        if len(factor) < d or diagonal.min() <= 1e-6 * diagonal.max() or np.tril(factor, -1).any():
            raise InputError(
                f"the Gaussian has no density: its examples span fewer than the {d} dimensions of a latent; "
                "fit it on more examples, or on latents without constant units"
            )
        return _log_density(x, params["mean"], factor)


@dataclasses.dataclass(frozen=True)
class Mixture:
    """A mixture of Gaussians with full covariances, fitted by scikit-learn's EM (Ghosh et al. 2020, section 4)."""

    components: int = 10

    discrete: ClassVar[bool] = False

    def fit(self, x: np.ndarray, seed: int) -> dict[str, Any]:
        from sklearn.mixture import GaussianMixture  # imported here, since it takes a second

        n, d = x.shape
        if n < self.components:
            raise InputError(f"sampler.components={self.components} is more than the {n} latents; lower it")
        if self.components * d * d > _LARGEST:
            raise InputError(
                f"{self.components} covariances of {d:,} dimensions do not fit in memory; lower sampler.components, "
                "or choose the gaussian or the flow"
            )
        std = x.std(0, dtype=np.float64)
        scale = np.where(std > 0, std, 1.0)  # scikit-learn adds 1e-6 to variances, whatever their scale
        mixture = GaussianMixture(self.components, random_state=seed).fit(x.astype(np.float64) / scale)
        factors = np.linalg.cholesky(mixture.covariances_).swapaxes(1, 2)
        return {
            "weights": mixture.weights_,
            "means": (scale * mixture.means_).astype(np.float32),
            "factors": (scale * factors).astype(np.float32),
        }

    def sample(self, params: dict[str, Any], num: int, seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        weights, means, factors = params["weights"], params["means"], params["factors"]
        component = rng.choice(len(weights), num, p=weights / weights.sum())
        z = rng.normal(size=(num, means.shape[1]))
        for k, (mean, factor) in enumerate(zip(means, factors, strict=True)):
            z[component == k] = mean + z[component == k] @ factor
        return z

    def log_prob(self, params: dict[str, Any], x: np.ndarray) -> np.ndarray:
        parts = [_log_density(x, *part) for part in zip(params["means"], params["factors"], strict=True)]
        return np.logaddexp.reduce(np.log(params["weights"])[:, None] + parts, 0)


def _log_density(x: np.ndarray, mean: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Returns the log density of a Gaussian with an upper triangular factor [d, d], in nats, [n]."""
    factor = factor.astype(np.float64)
    noise = np.linalg.solve(factor.T, (x - mean).T)
    log_det = np.log(np.abs(np.diag(factor))).sum()
    return -0.5 * (np.square(noise).sum(0) + len(mean) * math.log(2 * math.pi)) - log_det
