"""Densities of codes, integrated over grids: each is one, for every posterior and prior that has a density."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import fresh, mlp, mostly_slow, vectors

from aejax.config import module
from aejax.models.bottlenecks import GaussianBottleneck
from aejax.models.flows import InverseAutoregressive, Planar

POSTERIORS = ("diagonal", "full", "iaf", "planar")


def integral(z, log_q):
    """The integral of a density over the image of a grid, [n, 1] or [n, n, 2], of which z are the corners.

    Knows no Jacobian: the cells' lengths, or areas by the shoelace formula, are those of their corners after the flow.
    """
    z, q = np.float64(z), np.exp(np.float64(log_q))
    if z.shape[-1] == 1:
        size = np.diff(z[:, 0])
        middle = (q[1:] + q[:-1]) / 2
    else:
        a, b, c, d = z[:-1, :-1], z[1:, :-1], z[1:, 1:], z[:-1, 1:]
        size = (
            np.abs(sum(p[..., 0] * q[..., 1] - p[..., 1] * q[..., 0] for p, q in ((a, b), (b, c), (c, d), (d, a)))) / 2
        )
        middle = (q[:-1, :-1] + q[1:, :-1] + q[1:, 1:] + q[:-1, 1:]) / 4
    return (middle * size).sum()


def density_of(posterior, dims, depth, seed=0):
    """A posterior's z and log density at a grid of noise, with noise on every parameter."""
    bottleneck = GaussianBottleneck(dims, posterior, depth=depth, hidden=6)
    h, rng = jnp.float32(np.random.default_rng(seed).normal(size=(1, 4))), np.random.default_rng(seed)
    shapes = jax.eval_shape(bottleneck.init, jax.random.key(0), h)
    variables = jax.tree.map(lambda a: jnp.float32(rng.normal(0, 0.3, a.shape)), shapes)
    line = np.linspace(-6, 6, 241, dtype=np.float32)
    grid = np.stack(np.meshgrid(*[line] * dims, indexing="ij"), -1)

    @jax.jit
    def density(noise):
        base = bottleneck.apply(variables, h, method="_gaussian")
        z, q = bottleneck.apply(variables, base, h, noise, method="_sample")
        return z, q.log_prob(z)

    z, log_q = density(grid.reshape(-1, 1, dims))
    return z.reshape(grid.shape), log_q.reshape(grid.shape[:-1])


@pytest.mark.parametrize(
    ("posterior", "dims", "depth"),
    mostly_slow(
        [(posterior, dims, depth) for posterior in POSTERIORS for dims in (1, 2) for depth in (1, 3)]
        + [("iaf", 2, 8)],  # as many steps as Kingma et al. 2016 have
        ("iaf", 2, 3),
        ("planar", 2, 3),
    ),
)
def test_posteriors_integrate_to_one(posterior, dims, depth):
    for seed in range(3):
        assert integral(*density_of(posterior, dims, depth, seed)) == pytest.approx(1, abs=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "flow"), [("iaf", InverseAutoregressive), ("planar", Planar)])
def test_a_flow_without_its_determinant_does_not(name, flow, monkeypatch):
    step = flow.__call__
    monkeypatch.setattr(flow, "__call__", lambda *args: (step(*args)[0], jnp.zeros(())))
    assert abs(integral(*density_of(name, 2, 3)) - 1) > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("features", [1, 2])
@pytest.mark.parametrize("prior", ["standard", "mixture", "vamp"])
def test_priors_integrate_to_one(prior, features):
    config = mlp()
    config.bottleneck = module("gaussian", features=features, prior=prior, components=3)
    run = fresh(config, vectors(8))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda a: jnp.float32(a + rng.normal(0, 0.3, a.shape)), run.variables)
    grid = np.stack(np.meshgrid(*[np.linspace(-12, 12, 481, dtype=np.float32)] * features, indexing="ij"), -1)
    log_p = run.model.apply(variables, method="prior").log_prob(grid.reshape(-1, features))
    assert integral(grid, log_p.reshape(grid.shape[:-1])) == pytest.approx(1, abs=2e-3)
