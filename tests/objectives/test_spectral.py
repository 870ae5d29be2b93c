"""Spectral losses against SciPy, and the term that the objective weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import context
from scipy.signal import stft

import aejax
from aejax import losses
from aejax.objectives.spectral import multiscale_stft


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def spectrum(x, window):
    """By SciPy, [..., frames, frequencies]."""
    options = {"window": "hann", "nperseg": window, "noverlap": window - window // 4}
    return np.abs(stft(np.float64(x), boundary=None, padded=False, **options)[2]).swapaxes(-1, -2)


@pytest.mark.parametrize("window", [64, 128])
def test_magnitudes_are_those_of_scipy(window):
    x = noise(2, 500)
    np.testing.assert_allclose(losses.stft_magnitude(x, window, window // 4), spectrum(x, window), rtol=1e-4, atol=1e-6)


def test_the_distance_is_spectral_convergence_and_the_difference_of_logarithms():
    x, y, windows = noise(3, 400), noise(3, 400, seed=1), (128, 32)
    expected = 0
    for window in windows:
        a, b = spectrum(x, window), spectrum(y, window)
        expected += np.linalg.norm(a - b, axis=(1, 2)) / np.linalg.norm(a, axis=(1, 2)) / 2
        expected += np.abs(np.log(a) - np.log(b)).mean((1, 2)) / 2
    np.testing.assert_allclose(losses.multiscale_stft_distance(x, y, windows), expected, rtol=1e-4)
    np.testing.assert_allclose(losses.stft_distance(x, 3 * x, 64), 2 + np.log(3), rtol=1e-4)


@pytest.mark.parametrize("of", ["equal", "silent"])
def test_gradients_are_finite_where_norms_and_logarithms_are_not_smooth(of):
    x = jnp.asarray(noise(1, 64))
    y = x if of == "equal" else jnp.zeros_like(x)
    gradient = jax.grad(lambda y: losses.multiscale_stft_distance(x, y, (32, 16)).sum())(y)
    assert np.isfinite(gradient).all()
    assert np.isfinite(
        jax.grad(lambda x: losses.multiscale_stft_distance(x, y, (32, 16)).sum())(jnp.zeros_like(x))
    ).all()


def test_the_term_is_the_mean_over_channels():
    x, y = noise(2, 100, 2), noise(2, 100, 2, seed=1)
    each = [losses.multiscale_stft_distance(x[..., k], y[..., k], (64, 16)) for k in range(2)]
    np.testing.assert_allclose(multiscale_stft(context(x, y), windows=(64, 16)), np.mean(each, 0), rtol=1e-5)


@pytest.mark.parametrize(
    ("shape", "message"), [((2, 50, 1), "windows: 512 is longer than sequences of 50"), ((2, 9), "is for sequences")]
)
def test_what_has_no_such_spectrum_is_one_line(shape, message):
    with pytest.raises(aejax.InputError, match=message):
        multiscale_stft(context(noise(*shape)))


def test_si_sdr_of_noise_at_right_angles_is_the_ratio_of_their_powers():
    x, other = np.float32([[1, -1, 1, -1]]), np.float32([[1, 1, -1, -1]])
    np.testing.assert_allclose(losses.si_sdr(x, 5 * (x + 0.1 * other)), [20], rtol=1e-4)
