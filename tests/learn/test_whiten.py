"""train/learn/whiten.py beside scikit-learn's PCA, and by what defines whitening."""

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from train.learn.whiten import whiten, whitening_matrix


@pytest.fixture(scope="module")
def data() -> np.ndarray:
    """200 examples of 12 values that depend on each other."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(200, 12)) @ rng.normal(size=(12, 12)) + rng.normal(size=12)


def test_pca_is_scikit_learns(data):
    expected = PCA(whiten=True, svd_solver="full").fit_transform(data)
    found = (data - data.mean(0)) @ whitening_matrix(np.cov(data.T), 0.0, "pca")
    signs = np.sign((found * expected).sum(0))  # of a component, which is arbitrary
    np.testing.assert_allclose(found * signs, expected, atol=1e-9)


@pytest.mark.parametrize("kind", ["pca", "zca"])
def test_the_covariance_is_the_identity(kind, data):
    white = (data - data.mean(0)) @ whitening_matrix(np.cov(data.T), 0.0, kind)
    np.testing.assert_allclose(np.cov(white.T), np.eye(12), atol=1e-9)


def test_zca_is_symmetric_and_the_inverse_root(data):
    covariance = np.cov(data.T)
    matrix = whitening_matrix(covariance, 0.0, "zca")
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-12)
    np.testing.assert_allclose(matrix @ matrix @ covariance, np.eye(12), atol=1e-8)


def test_epsilon_is_added_to_the_variances():
    digits = load_digits().data / 16  # some pixels are always 0
    covariance = np.cov(digits.T)
    values = np.linalg.eigvalsh(covariance)[::-1]
    white = (digits - digits.mean(0)) @ whitening_matrix(covariance, 0.01, "pca")
    np.testing.assert_allclose(white.var(0, ddof=1), values / (values + 0.01), atol=1e-9)
    assert np.isfinite(white).all()


def test_images_are_flattened_by_row_column_and_channel():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(4, 2, 3, 3)).astype(np.float32)
    matrix = rng.normal(size=(18, 18)).astype(np.float32)
    expected = (images.reshape(4, 18).astype(np.float64) @ matrix).reshape(images.shape)
    np.testing.assert_allclose(whiten(jnp.asarray(images), matrix), expected, atol=1e-5)


def test_a_grey_image_in_three_channels_is_the_grey_image():
    rng = np.random.default_rng(0)
    grey = rng.normal(size=(4, 2, 3, 1)).astype(np.float32)
    matrix = rng.normal(size=(6, 6)).astype(np.float32)
    one, three = (whiten(jnp.asarray(x), matrix) for x in (grey, grey.repeat(3, -1)))
    np.testing.assert_allclose(three, np.repeat(one, 3, -1), atol=1e-6)


def test_another_size_is_refused():
    with pytest.raises(ValueError, match=r"9 values .* for images of 4x4x3"):
        whiten(jnp.zeros((1, 4, 4, 3)), jnp.eye(9))
