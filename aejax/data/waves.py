"""Synthetic series with planted anomalies: windows of two sensors that see one oscillation."""

import numpy as np

from aejax.data.sources import Source, from_array

STEPS, KINDS = 128, 3
ANOMALOUS = 3  # the label of windows with an anomaly
SIZES = {"train": (2_000, 0), "validation": (200, 0), "test": (400, 200)}  # of windows without and with an anomaly


def make_waves(size: int = 0, seed: int = 0) -> dict[str, Source]:
    """Returns train, validation and test windows [size or 128, 2], the label of each being its kind of oscillation.

    Label 0 is a sine, 1 a sawtooth and 2 a sine of rising and falling amplitude. Amplitude, period and phase vary, the
    second sensor lags a quarter of a period behind the first, and both have noise. Only test has label 3: windows of
    any kind in a stretch of which a sensor is stuck, the frequency doubles, the lag is lost, or a bump is added.

        aejax train --config=timeseries --workdir=runs/timeseries
    """
    rng = np.random.default_rng(seed)
    return {name: _sample(name, normal, anomalous, size or STEPS, rng) for name, (normal, anomalous) in SIZES.items()}


def _sample(name: str, normal: int, anomalous: int, steps: int, rng: np.random.Generator) -> Source:
    n, time = normal + anomalous, np.arange(steps)
    label = rng.integers(KINDS, size=n).astype(np.int32)
    rate = np.repeat(1 / rng.uniform(16, 40, (n, 1)), steps, 1)
    lag = np.full((n, steps), 0.25)
    begin, length = rng.integers(max(steps - 48, 1), size=n), rng.integers(16, 49, size=n)
    within = (time >= begin[:, None]) & (time < (begin + length)[:, None])
    within &= np.arange(n)[:, None] >= normal
    fault = rng.integers(4, size=(n, 1))
    rate[within & (fault == 1)] *= 2
    lag[within & (fault == 2)] = 0
    phase = rng.random((n, 1)) + np.cumsum(rate, 1)
    x = np.stack([_oscillate(phase - shift, label) for shift in (np.zeros_like(lag), lag)], -1)
    x *= rng.uniform(0.5, 1.5, (n, 1, 1))
    x[..., 0] = np.where(within & (fault == 0), x[np.arange(n), begin, 0][:, None], x[..., 0])
    middle = (begin + length / 2)[:, None]
    x[..., 0] += (fault == 3) * within.any(1, keepdims=True) * np.exp(-(((time - middle) / 4) ** 2))
    x += rng.normal(0, 0.1, x.shape)
    label[normal:] = ANOMALOUS
    return from_array((20 + 5 * x).astype(np.float32), label, f"waves[{name}]", kind="sequence")


def _oscillate(phase: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Returns the values [n, steps] of oscillations of the kinds `label` [n] at phases in periods."""
    sine = np.sin(2 * np.pi * phase)
    swell = sine * (0.5 + 0.5 * np.cos(2 * np.pi * phase / 3) ** 2)
    return np.choose(label[:, None], [sine, 2 * (phase % 1) - 1, swell])
