"""Autoencoders as estimators of scikit-learn: a transformer and an outlier detector."""

from aejax.sklearn.outliers import AutoencoderOutlierDetector
from aejax.sklearn.transformer import AutoencoderTransformer

__all__ = ["AutoencoderOutlierDetector", "AutoencoderTransformer"]
