"""Reconstruction: how well a run copies its input, compared with PCA of as many components."""

import functools
import math
from typing import Any

import jax
import numpy as np
from skimage.metrics import structural_similarity
from sklearn.decomposition import PCA

from aejax import perceptual
from aejax.errors import InputError, one_of
from aejax.evaluation.subject import Measure, Measures, Skipped, Subject
from aejax.inference.batches import check_labels, limit_batch, map_batches
from aejax.objectives import Corruption

SSIM_SIDE = 7  # pixels of skimage's window
WIDEST, NUMBERS = 4_096, 100_000_000  # values per example, and of all examples, that PCA reads: some gigabytes


def measure(subject: Subject, lpips: str = "alex") -> Measures:
    """Returns errors of the deterministic reconstruction on the test part, in the user's units.

    `lpips` is the network of LPIPS, "alex" or "vgg". Papers report either.
    """
    if lpips not in perceptual.NETWORKS:
        raise one_of("reconstruction.lpips", lpips, perceptual.NETWORKS)
    test = subject.test
    error = squared_error(test.wanted, test.reconstructions)
    how = f"mean over {test}; deterministic code"
    values: float = math.prod(test.wanted.shape[1:])
    if subject.run.spec.masked:
        values = float(np.isfinite(test.inputs).mean() * values)  # of an example, on average
    bounds = subject.run.spec.bounds
    measures: Measures = {
        "squared_error": Measure(error, "squared input units per example", f"{how}; summed over values"),
        "squared_error_per_value": Measure(
            error / values, "squared input units per value", f"{how}; over {values:,.6g} values"
        ),
        "pca_squared_error": _pca(subject),
        "psnr": Skipped("PSNR is for images and volumes"),
        "ssim": Skipped("SSIM is for images and volumes"),
        "lpips": Skipped("LPIPS is for images"),
    }
    if bounds and not subject.run.spec.missing:
        kind, extent = subject.run.spec.kind, bounds[1] - bounds[0]
        psnr = peak_signal_to_noise(test.inputs, test.reconstructions, extent)
        measures["psnr"] = Measure(
            psnr, "dB", f"mean over {test} of each {kind}'s PSNR; data range {extent:g}; deterministic code"
        )
        measures["ssim"] = _ssim(subject, *bounds)
        unit = not subject.run.spec.limits
        measures["lpips"] = _lpips(subject, lpips) if unit else Skipped("LPIPS is for images in [0, 1]")
    if subject.run.config.corruption.name != "none":
        measures |= _denoising(subject)
    return measures


def squared_errors(inputs: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """Returns the squared error of each example [n], summed over its values, in squared units of `inputs` [n, ...].

    Padding, which is NaN, does not count.
    """
    return np.nansum(np.square(inputs.astype(np.float64) - outputs).reshape(len(inputs), -1), 1)


def squared_error(inputs: np.ndarray, outputs: np.ndarray) -> float:
    """Returns the mean of the squared errors over examples."""
    return float(squared_errors(inputs, outputs).mean())


def peak_signal_to_noise(inputs: np.ndarray, outputs: np.ndarray, extent: float = 1.0) -> float:
    """Returns the mean over images of 10 log10(extent^2 / mean squared error), in dB.

    `extent` is the largest possible value less the smallest. An exact copy counts as 100 dB, the value for a squared
    error of 1e-10 of images in [0, 1].
    """
    errors = squared_errors(inputs, outputs) / math.prod(inputs.shape[1:]) / extent**2
    return float(-10 * np.log10(np.maximum(errors, 1e-10)).mean())


def _ssim(subject: Subject, low: float, high: float) -> Measure | Skipped:
    """Returns SSIM (Wang et al. 2004) of values from `low` to `high`, with skimage's uniform window."""
    test, sides = subject.test, subject.test.inputs.shape[1:-1]
    window = "x".join([str(SSIM_SIDE)] * len(sides))
    if min(sides) < SSIM_SIDE:
        return Skipped(f"SSIM's window of {window} is larger than {subject.run.spec.kind}s of {sides}")
    outputs = np.clip(test.reconstructions, low, high)
    pairs = zip(test.inputs, outputs, strict=True)
    options = {"win_size": SSIM_SIDE, "data_range": high - low, "channel_axis": -1}
    values = [structural_similarity(a, b, **options) for a, b in pairs]
    how = f"mean over {test}; data range {high - low:g}; uniform window of {window}; deterministic code, clipped"
    return Measure(float(np.mean(values)), "from -1 to 1", how)


def _lpips(subject: Subject, network: str) -> Measure | Skipped:
    """Returns LPIPS (Zhang et al. 2018), version 0.1 of its weights."""
    test = subject.test
    try:
        perceptual.check_images(test.inputs.shape[1:], network)
        weights = perceptual.load(network)
    except InputError as error:  # for other images, or if the weights are not installed
        return Skipped(str(error))
    model = perceptual.LPIPS(network)
    distance = functools.partial(jax.jit(model.apply), jax.device_put(weights))  # constants would be compiled in
    outputs = np.clip(test.reconstructions, 0, 1)
    size = limit_batch(test.inputs.shape[1:], 64)
    with jax.default_matmul_precision("float32"):
        values = map_batches(distance, test.inputs, (outputs,), size)
    how = f"mean over {test}; network {network}, version 0.1; deterministic code, clipped to [0, 1]"
    return Measure(float(values.mean()), "0 for equal images", how)


def _denoising(subject: Subject) -> Measures:
    """Returns the errors of corrupted inputs and of their reconstructions, both compared with the clean inputs."""
    run, test = subject.run, subject.test
    corruption = Corruption(**run.config.corruption)

    @jax.jit
    def denoise(variables: Any, x: Any, keys: Any, label: Any = None) -> Any:
        x = run.spec.prepare(x)
        corrupted = corruption(keys, x)
        output: Any = run.model.apply(variables, corrupted, label=label)
        return run.spec.restore(corrupted), run.spec.restore(run.likelihood.reconstruct(output.decoded, x))

    keys = jax.random.split(jax.random.key(0), len(test))
    labels = check_labels(test.condition, len(test), run.config.classes)
    function = functools.partial(denoise, jax.device_put(run.variables))  # constants would be compiled in
    corrupted, denoised = map_batches(function, run.spec.check(test.x), (keys, *labels), limit_batch(run.spec.shape))
    how = f"compared with the clean inputs, mean over {test}; corruption {corruption.name} {corruption.level:g}, seed 0"
    unit = "squared input units per example"
    return {
        "corrupted_squared_error": Measure(squared_error(test.inputs, corrupted), unit, f"corrupted inputs {how}"),
        "denoised_squared_error": Measure(squared_error(test.inputs, denoised), unit, f"their reconstructions {how}"),
    }


def _pca(subject: Subject) -> Measure | Skipped:
    """Returns the squared error of PCA with as many components as the code has numbers."""
    train, test = subject.train, subject.test
    if test.target is not None:
        return Skipped("PCA copies its input, and a transcoder decodes another target")
    if subject.run.spec.masked:
        return Skipped("PCA needs numbers without missing values, and sequences of one length")
    components = math.prod(subject.run.latents.shape[1:])
    values = math.prod(test.inputs.shape[1:])
    if components >= min(values, len(train)):
        return Skipped(f"PCA with the code's {components:,} numbers is exact: there are no more values or examples")
    if values > WIDEST:
        return Skipped(f"PCA of {values:,} values would take too long; it is measured for at most {WIDEST:,}")
    train = train.take(max(NUMBERS // values, components + 1))
    # In float32 the covariance of values far from 0 would lose its digits.
    fit, flat = (part.inputs.reshape(len(part), -1).astype(np.float64) for part in (train, test))
    pca = PCA(components, svd_solver="covariance_eigh").fit(fit)
    error = squared_error(flat, pca.inverse_transform(pca.transform(flat)))
    how = f"PCA of {components} components, fitted on {train}; mean over {test}"
    return Measure(error, "squared input units per example", f"{how}; summed over values")
