"""What the parent gives every contender: images, the rows of each batch, weights. A file of numpy arrays."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

CHECKED = 20  # steps in which the equality of the work is checked


@dataclasses.dataclass(frozen=True)
class Given:
    """
    Attributes:
      images: uint8 [n, height, width, channels].
      rows: int32 [steps, batch], of the images in each step.
      weights: by the path in aejax's variables, "params/encoder/dense_0/kernel", in flax's layout.
    """

    images: np.ndarray
    rows: np.ndarray
    weights: Mapping[str, np.ndarray]

    def write(self, file: Path) -> None:
        np.savez(file, images=self.images, rows=self.rows, **self.weights)

    @classmethod
    def read(cls, file: Path) -> "Given":
        with np.load(file) as arrays:
            weights = {name: arrays[name] for name in arrays.files if "/" in name}
            return cls(arrays["images"], arrays["rows"], weights)

    @property
    def parameters(self) -> dict[str, np.ndarray]:
        """Those of the weights that the optimizer trains."""
        return {name: value for name, value in self.weights.items() if name.startswith("params/")}

    def sizes(self, path: str) -> list[int]:
        """Of a chain of kernels, params/<path with 0>/kernel and so on: the first's inputs, then each one's outputs."""
        names = [f"params/{path.format(i)}/kernel" for i in range(len(self.weights))]
        shapes = [self.weights[name].shape for name in names if name in self.weights]
        return [shapes[0][-2], *(shape[-1] for shape in shapes)]

    def floats(self, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Images as float32 in [0, 1]."""
        return self.images[rows].astype(np.float32) / 255
