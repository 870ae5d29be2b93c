"""How well a run copies its input, beside PCA with as many components."""

from typing import Any

import numpy as np
from sklearn.decomposition import PCA

from aejax import data
from aejax.run import Run


def squared_error(inputs: np.ndarray, outputs: np.ndarray) -> float:
    """Squared error in the user's units, summed over the values of an example, averaged over examples."""
    return float(np.square(inputs.astype(np.float64) - outputs).reshape(len(inputs), -1).sum(1).mean())


def against_pca(run: Run, splits: data.Splits) -> dict[str, Any]:
    """`squared_error` on the test split: the run's, and PCA's fitted on the train split.

    PCA has as many components as the code has numbers, and is left out where that is no fewer than
    the input has.
    """
    read = data.read(splits.test)
    test, label = run.in_users_units(read["x"]), read["label"] if run.config.classes else None
    components, size = int(np.prod(run.latents.shape[1:])), int(np.prod(test.shape[1:]))
    error = squared_error(test, run.reconstruct(read["x"], label))
    result = {
        "split": splits.test.name,
        "examples": len(test),
        "squared_error": error,
        "squared_error_per_value": error / size,
        "code_size": components,
    }
    if components < min(size, len(splits.train)):
        train = run.in_users_units(data.read(splits.train)["x"]).reshape(len(splits.train), -1)
        pca = PCA(components, svd_solver="covariance_eigh").fit(train)
        flat = test.reshape(len(test), -1)
        result["pca_squared_error"] = squared_error(flat, pca.inverse_transform(pca.transform(flat)))
    return result
