"""The transformer against scikit-learn's own checks, and what its numbers mean."""

import pickle

import joblib
import numpy as np
import pytest
from conftest import MEANT, vectors
from scipy import stats
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import aejax
from aejax.config import module
from aejax.sklearn import AutoencoderTransformer


@pytest.mark.filterwarnings(MEANT)  # the checks' data has few features
@parametrize_with_checks([AutoencoderTransformer(n_components=1, hidden=(4,), steps=2)])
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def fitted():
    return AutoencoderTransformer(hidden=(5,), steps=4, random_state=0).fit(vectors() * 10 + 3)
