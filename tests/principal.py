"""Probabilistic PCA as a run, whose log p(x) has a closed form (Tipping and Bishop 1999)."""

import dataclasses

import jax
import numpy as np
from conftest import fresh, mlp, vectors
from scipy.stats import multivariate_normal

from aejax.config import module

SCALE, MEAN = 0.5, np.linspace(-1, 1, 5)


def principal(seed=0, posterior="full", exact=True, spec=None, **of_likelihood):
    """Probabilistic PCA as a run, x = W z + mean + noise, and its N(mean, W W^T + s^2 I).

    The posterior is the exact one, or one that is off its mean and too wide.
    """
    rng = np.random.default_rng(seed)
    w = rng.normal(size=(5, 2))
    config = mlp(encoder__features=(), decoder__features=())
    config.bottleneck = module("gaussian", features=2, posterior=posterior)
    config.likelihood = module("gaussian", **(of_likelihood or {"scale": SCALE}))
    config.objective.weights.kl = 4.0  # which no score here must heed
    run = fresh(config, vectors(8, 5), spec=spec)
    covariance = np.linalg.inv(w.T @ w / SCALE**2 + np.eye(2))
    to_mean = covariance @ w.T / SCALE**2
    factor = np.linalg.cholesky(covariance) * (1 if exact else 1.5)
    log_std = np.log(np.diag(factor))
    bottleneck = {
        "mean": {"kernel": to_mean.T, "bias": -to_mean @ MEAN + (0 if exact else 0.1)},
        "log_std": {"kernel": np.zeros((5, 2)), "bias": log_std},
    }
    if posterior == "full":
        bottleneck["off_diagonal"] = {"kernel": np.zeros((5, 1)), "bias": factor[1:, 0]}
    params = {**run.variables["params"], "bottleneck": bottleneck}
    params["decoder"] = {"dense_0": {"kernel": w.T, "bias": MEAN}}
    params = jax.tree.map(lambda a: np.asarray(a, np.float32), params)
    true = multivariate_normal(MEAN, w @ w.T + SCALE**2 * np.eye(5))
    return dataclasses.replace(run, variables={"params": params}), true


def data_of(true, n=200, seed=0):
    return np.float32(true.rvs(n, random_state=seed))
