"""Distances of spectra of signals over time."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from aejax.errors import InputError

_SILENCE = 1e-5  # magnitudes below which logarithms do not differ, for samples from -1 to 1


def stft_magnitude(x: Float[Array, "*batch time"], window: int, hop: int) -> Float[Array, "*batch frames frequencies"]:
    """Returns the magnitude of the short-time Fourier transform, of whole frames: each `hop` samples after the last.

    Frames are weighted by a periodic Hann window, whose sum divides them, so that a sine of amplitude 1 has about 1/2.

    >>> stft_magnitude(jnp.array([0.0, 1.0, 0.0, -1.0] * 2), 4, 4)
    Array([[0. , 0.5, 0. ],
           [0. , 0.5, 0. ]], dtype=float32)
    """
    if x.shape[-1] < window:
        raise InputError(f"a signal of {x.shape[-1]} samples is shorter than a window of {window}; choose shorter ones")
    frames = 1 + (x.shape[-1] - window) // hop
    places = hop * np.arange(frames)[:, None] + np.arange(window)
    weights = np.hanning(window + 1)[:-1]
    spectrum = jnp.fft.rfft(x[..., places] * jnp.asarray(weights / weights.sum(), x.dtype))
    # The gradient of the square root is infinite at 0.
    return jnp.sqrt(jnp.maximum(jnp.square(spectrum.real) + jnp.square(spectrum.imag), _SILENCE**2))


def stft_distance(
    x: Float[Array, "*batch time"], y: Float[Array, "*batch time"], window: int = 512
) -> Float[Array, "*batch"]:
    """Returns the distance of y from x in the magnitudes S of their short-time Fourier transforms, a quarter window
    apart: |S(x) - S(y)| / |S(x)|, in Frobenius norms, plus the mean of |log S(x) - log S(y)|.

    These are the spectral convergence and log magnitude losses of Arik et al. 2019, section 3, as Yamamoto et al. 2020,
    "Parallel WaveGAN", equations 4 to 6, add them. It is 0 for equal signals, and stays as it is where both are
    louder.

    >>> stft_distance(jnp.array([0.0, 1.0] * 4), jnp.array([0.0, 2.0] * 4), 4)
    Array(1.555, dtype=float32)
    """
    s_x, s_y = (stft_magnitude(each, window, max(window // 4, 1)) for each in (x, y))
    axes = (-2, -1)
    difference = jnp.square(s_x - s_y).sum(axes)
    # Equal spectra have the gradient 0, where that of the norm would be NaN.
    norm = jnp.where(difference > 0, jnp.sqrt(jnp.where(difference > 0, difference, 1.0)), 0.0)
    convergence = norm / jnp.sqrt(jnp.square(s_x).sum(axes))
    return convergence + jnp.abs(jnp.log(s_x) - jnp.log(s_y)).mean(axes)


def multiscale_stft_distance(
    x: Float[Array, "*batch time"], y: Float[Array, "*batch time"], windows: tuple[int, ...] = (512, 256, 128)
) -> Float[Array, "*batch"]:
    """Returns the mean of `stft_distance` over windows of several lengths (Yamamoto et al. 2020, equation 7).

    >>> multiscale_stft_distance(jnp.array([0.0, 1.0] * 4), jnp.array([0.0, 1.0] * 4), (8, 4))
    Array(0., dtype=float32)
    """
    return jnp.stack([stft_distance(x, y, window) for window in windows]).mean(0)


def si_sdr(x: Float[Array, "*batch time"], y: Float[Array, "*batch time"]) -> Float[Array, "*batch"]:
    """Returns the scale-invariant ratio of signal and distortion of y, an estimate of x, in dB (Le Roux et al. 2019,
    equation 5): that of a x and y - a x, where a x is the projection of y on x.

    >>> si_sdr(jnp.array([1.0, -1.0]), jnp.array([1.1, -0.9]))
    Array(20., dtype=float32)
    """
    dot = lambda a, b: (a * b).sum(-1, keepdims=True)  # noqa: E731
    projection = dot(x, y) / dot(x, x) * x
    return 10 * jnp.log10(jnp.square(projection).sum(-1) / jnp.square(y - projection).sum(-1))
