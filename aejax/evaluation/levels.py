"""Signals, and codes with levels: how the reconstruction gets better with each level that is decoded."""

import numpy as np

from aejax.evaluation.reconstruction import squared_error
from aejax.evaluation.subject import Measure, Measures, Part, Skipped, Subject

SIGNAL = "SI-SDR is for sequences without padding"


def measure(subject: Subject) -> Measures:
    """Returns SI-SDR of sequences, and it and the squared error by the number of levels of a residual code."""
    test, run = subject.test, subject.run
    signals = run.spec.kind == "sequence" and not run.spec.padded
    measures: Measures = {"si_sdr": Skipped(SIGNAL)}
    if signals:
        measures["si_sdr"] = _measure_si_sdr(test, test.reconstructions, "deterministic code")
    levels = getattr(run.model.bottleneck, "prefixes", 0)
    if not levels:
        reason = (
            f"the code of bottleneck {run.config.bottleneck.name!r} has no levels of which the first can be decoded"
        )
        return measures | {"squared_error_by_level": Skipped(reason)}
    indices = run.indices(test.x, test.condition)
    for k in range(1, levels + 1):
        decoded = run.decode(run.lookup(indices[..., :k]), test.condition)
        what = f"the first {k} of {levels} levels"
        error = squared_error(test.wanted, decoded)
        how = f"mean over {test}; {what}; summed over values"
        measures[f"squared_error_by_level_{k}"] = Measure(error, "squared input units per example", how)
        if signals:
            measures[f"si_sdr_by_level_{k}"] = _measure_si_sdr(test, decoded, what)
    return measures


def si_sdr(inputs: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """Returns the scale-invariant ratio of signal and distortion [n] in dB (Le Roux et al. 2019, equation 5).

    Time steps and channels of an example are one signal. An example of zeros has NaN, and an exact copy 100 dB.
    """
    x, y = (a.reshape(len(a), -1).astype(np.float64) for a in (inputs, outputs))
    power = np.square(x).sum(1)
    factor = (x * y).sum(1) / np.where(power > 0, power, np.nan)
    signal, distortion = factor**2 * power, np.square(y - factor[:, None] * x).sum(1)
    least = np.finfo(np.float64).tiny
    ratio = np.maximum(signal, least) / np.maximum(distortion, 1e-10 * np.maximum(signal, least))
    return np.where(power > 0, 10 * np.log10(ratio), np.nan)


def _measure_si_sdr(test: Part, decoded: np.ndarray, what: str) -> Measure | Skipped:
    found = si_sdr(test.wanted, decoded)
    heard = np.isfinite(found)
    if not heard.any():
        return Skipped("all examples are zeros")
    how = f"mean over {heard.sum():,} of {test}, which are not all zeros; {what}"
    return Measure(float(found[heard].mean()), "dB", how)
