"""Whitening of images by the principal components of the training set: pure functions."""

import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

Kind = Literal["pca", "zca"]


def whitening_matrix(covariance: np.ndarray, epsilon: float, kind: Kind) -> np.ndarray:
    """The matrix W with which (x - mean) @ W is white.

    U diag(L) U' is the covariance, the largest eigenvalue first. "pca": W = U (L + epsilon)^-1/2,
    whose outputs are the scaled principal components. "zca": W = U (L + epsilon)^-1/2 U', which is
    symmetric, and of all whitening matrices changes an image least (Bell & Sejnowski 1997,
    "The independent components of natural scenes are edge filters"). A component's sign is that
    with which its largest coefficient is positive.

    Args:
      covariance: float64 [D, D], symmetric.
      epsilon: added to the eigenvalues, so that components without variance stay small.

    Returns:
      Float64 [D, D].

    >>> covariance = np.array([[2.0, 1.0], [1.0, 2.0]])
    >>> W = whitening_matrix(covariance, 0.0, "zca")
    >>> np.allclose(W.T @ covariance @ W, np.eye(2)), np.allclose(W, W.T)
    (True, True)
    """
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
    largest = np.abs(vectors).argmax(0)
    vectors = vectors * np.sign(vectors[largest, np.arange(len(values))])
    scaled = vectors / np.sqrt(values + epsilon)
    return scaled @ vectors.T if kind == "zca" else scaled


def whiten(images: jax.Array, matrix: jax.Array) -> jax.Array:
    """Multiplies centred images, flattened in the order H, W, C, by a whitening matrix.

    The product is in float32 on every device: whitening enlarges small differences.

    Args:
      images: float32 [B, H, W, C].
      matrix: float32 [D, D], D = H * W * C; or D = H * W, for each channel alone.

    Returns:
      Float32 [B, H, W, C].

    Raises:
      ValueError: the sizes differ.

    >>> whiten(jnp.ones((1, 1, 2, 3)), 2 * jnp.eye(2))[0, 0, 0].tolist()
    [2.0, 2.0, 2.0]
    """
    batch, height, width, channels = images.shape
    pixels = height * width
    highest = jax.lax.Precision.HIGHEST
    if len(matrix) == pixels * channels:
        return jnp.matmul(images.reshape(batch, -1), matrix, precision=highest).reshape(
            images.shape
        )
    if len(matrix) != pixels:
        side = math.isqrt(len(matrix))
        raise ValueError(
            f"a whitening matrix of {len(matrix)} values (such as {side}x{side} grey pixels) for "
            f"images of {height}x{width}x{channels}"
        )
    flat = images.reshape(batch, pixels, channels)
    product = jnp.einsum("bpc,pq->bqc", flat, matrix, precision=highest)
    return product.reshape(images.shape)
