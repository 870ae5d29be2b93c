"""Synthetic sounds: vowels of gliding pitch, and hisses between them, at 16 kHz."""

import numpy as np

from aejax.data.sources import Source, from_array

RATE, STEPS = 16_000, 4_096  # samples per second, and of a segment
SIZES = {"train": 400, "validation": 40, "test": 40}
# The first two formants of five vowels in Hz (after Peterson and Barney 1952, table II, men).
_FORMANTS = np.array([[270, 2290], [530, 1840], [730, 1090], [570, 840], [300, 870]])


def make_voices(size: int = 0, seed: int = 0) -> dict[str, Source]:
    """Returns train, validation and test segments [size or 4096, 1] of sound, labeled by their vowel.

    Harmonics of a pitch that glides between 90 and 250 Hz are shaped by two formants, and rise and fall in loudness.
    Where they are silent, there is noise. It stands in for speech where there is none.
    """
    rng = np.random.default_rng(seed)
    return {name: _sample(name, n, size or STEPS, rng) for name, n in SIZES.items()}


def _sample(name: str, n: int, steps: int, rng: np.random.Generator) -> Source:
    label = rng.integers(len(_FORMANTS), size=n).astype(np.int32)
    ends = rng.uniform(90, 250, (2, n, 1))
    pitch = ends[0] + (ends[1] - ends[0]) * np.linspace(0, 1, steps)
    phase = 2 * np.pi * (rng.random((n, 1)) + np.cumsum(pitch, 1) / RATE)
    turn, harmonics = np.exp(1j * phase), np.zeros((n, steps))
    wave = np.ones_like(turn)
    for k in range(1, 33):
        wave *= turn
        gain = np.exp(-(((k * pitch.mean(1)[:, None] - _FORMANTS[label]) / 150) ** 2)) @ [1.0, 0.4]
        harmonics += gain[:, None] * wave.imag
    place = rng.random((n, 1)) + np.arange(steps) / RATE * rng.uniform(3, 6, (n, 1))  # in syllables
    loud = np.clip(1.5 * np.sin(2 * np.pi * place), 0, 1)
    x = 0.25 * loud * harmonics + 0.02 * (1 - loud) * rng.normal(size=(n, steps))
    return from_array(x.astype(np.float32)[..., None], label, f"voices[{name}]", kind="sequence")
