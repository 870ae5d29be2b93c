"""Usage of the code: of discrete codes, of latent units, and the variance of the data that they explain."""

import numpy as np
from scipy.stats import entropy

from aejax.evaluation.subject import Measure, Measures, Skipped, Subject


def measure(subject: Subject) -> Measures:
    """Returns how the deterministic codes of the test part are used, and the variance that they explain."""
    measures = {
        **_measure_indices(subject),
        **_measure_units(subject),
        "variance_explained": _measure_explained(subject),
    }
    if "kl_sparsity" in subject.run.config.objective.weights:
        test = subject.test
        how = f"mean over the units and {test}; the objective pulls that of each unit toward its target"
        measures["mean_activation"] = Measure(float(test.flat_latents.mean()), "from 0 to 1", how)
    return measures


def perplexity(indices: np.ndarray) -> float:
    """Returns exp(entropy) of the codes' frequencies among indices of any shape, from 1 to the number of codes."""
    return float(np.exp(entropy(np.unique(indices, return_counts=True)[1])))


def dead(indices: np.ndarray, size: int) -> float:
    """Returns the fraction of `size` codes that no index names."""
    return 1 - len(np.unique(indices)) / size


def variance_explained(inputs: np.ndarray, outputs: np.ndarray) -> float:
    """Returns 1 - sum |x - x'|^2 / sum |x - mean|^2 over all values; `inputs` give the mean of each value."""
    left = np.square(inputs - outputs).sum(dtype=np.float64)
    return float(1 - left / np.square(inputs - inputs.mean(0, dtype=np.float64)).sum(dtype=np.float64))


def _measure_indices(subject: Subject) -> Measures:
    run, test = subject.run, subject.test
    size = run.codebook_size
    if size is None:
        reason = Skipped(f"bottleneck {run.config.bottleneck.name!r} has no discrete codes")
        return dict.fromkeys(
            ("perplexity", "codebook_usage", "dead_codes", "entropy", "perplexity_by_position"), reason
        )
    indices = run.indices(test.x, test.condition)
    levels = [indices]  # each with its own codes
    if getattr(run.model.bottleneck, "codebooks", 0):
        levels = list(np.moveaxis(indices, -1, 0))
    levels = [level.reshape(len(test), -1) for level in levels]  # [n, positions]
    positions = levels[0].shape[1]
    how = f"{levels[0].size:,} indices of {test}, {positions:,} per example" + _describe_mean(len(levels), "level")
    unit = f"of {size:,} codes"
    unused = float(np.mean([dead(level, size) for level in levels]))
    bits = float(np.mean([np.log2(perplexity(level)) for level in levels]))
    measures: Measures = {
        "perplexity": Measure(float(np.mean([perplexity(level) for level in levels])), unit, how),
        "codebook_usage": Measure(1 - unused, f"fraction {unit}", how),
        "dead_codes": Measure(unused, f"fraction {unit}", how),
        "entropy": Measure(bits, f"bits per index, at most {np.log2(size):.4g}", f"{how}; of the frequencies of codes"),
        "perplexity_by_position": Skipped("an example is one code: there is one position"),
    }
    if positions > 1:
        by_position = [perplexity(level[:, i]) for level in levels for i in range(positions)]
        protocol = f"{len(test):,} indices of {test} at each position" + _describe_mean(positions, "position")
        protocol += _describe_mean(len(levels), "level")
        measures["perplexity_by_position"] = Measure(float(np.mean(by_position)), unit, protocol)
    for i, level in enumerate(levels if len(levels) > 1 else (), 1):
        measures[f"perplexity_level_{i}"] = Measure(perplexity(level), unit, f"{level.size:,} indices of {test}")
    return measures


def _describe_mean(count: int, what: str) -> str:
    return f"; mean over {count:,} {what}s" if count > 1 else ""


def _measure_units(subject: Subject) -> Measures:
    test = subject.test
    active = test.flat_latents != 0
    reason = None
    if subject.run.codebook_size is not None:
        reason = "an example's code is an index: see perplexity"
    elif active.all():
        reason = "no unit is ever 0: the code is not sparse"
    if reason:
        return dict.fromkeys(("l0", "dead_units"), Skipped(reason))
    unit = f"of {active.shape[1]:,} units"
    return {
        "l0": Measure(float(active.sum(1).mean()), unit, f"number of units that are not 0, mean over {test}"),
        "dead_units": Measure(float(1 - active.any(0).mean()), f"fraction {unit}", f"units that are 0 for all {test}"),
    }


def _measure_explained(subject: Subject) -> Measure | Skipped:
    test = subject.test
    if subject.run.spec.missing:
        return Skipped("the data has missing values, whose variance is not known")
    if np.ptp(test.wanted, 0).max() == 0:
        return Skipped(f"all {test} are the same: there is no variance to explain")
    how = f"{test}, about their own mean, over all values together; deterministic code"
    return Measure(variance_explained(test.wanted, test.reconstructions), "fraction of the variance, at most 1", how)
