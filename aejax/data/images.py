"""Resizing of images that are arrays."""

import numpy as np
from PIL import Image


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """Resizes an image [height, width, channels] of uint8 to [size, size, channels], bicubic."""
    if image.shape[:2] == (size, size):
        return image
    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    resized = np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC))
    return resized.reshape(size, size, -1)
