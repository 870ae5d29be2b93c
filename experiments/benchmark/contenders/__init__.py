"""Who takes part: each library's way of doing a work in a file of its own, written as its users write it.

A file has a function for each kind of work that its library takes part in, `train`, `encode` or
`likelihood`: (work, given, variant) to a `Contender`.
"""

import dataclasses
import functools
import importlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmark.works import WORKS
from experiments.machine import busy_seconds, peak_gib

CHECKED = 20  # steps in which the equality of the work is checked


@dataclasses.dataclass(frozen=True)
class Given:
    """What the parent gives every contender, by a file of NumPy arrays.

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


@dataclasses.dataclass(frozen=True)
class Contender:
    """
    Attributes:
      parameters: that are trained.
      check: values by name that equal work makes equal; called once, before the first turn.
      turn: does a round of the work, and returns the number of its images once all of it is done.
      peak: GiB, the most that it held so far; of an accelerator's memory where it works on one.
    """

    parameters: int
    check: Callable[[], dict[str, float]]
    turn: Callable[[], int]
    peak: Callable[[], float] = peak_gib


def training(
    given: Given,
    steps: int,
    parameters: int,
    prepare: Callable[[np.ndarray], Any],
    train: Callable[[Any], float],
    peak: Callable[[], float] = peak_gib,
) -> Contender:
    """A contender that trains.

    Args:
      prepare: rows [steps, batch] to what `train` reads; not timed.
      train: does these steps, from the state that the last call left, and returns their mean loss.
    """
    rows = given.rows[:steps]
    prepared = []  # before the first turn, and after the check

    def check() -> dict[str, float]:
        first, middle, last = (prepare(part) for part in np.split(given.rows[:CHECKED], [1, CHECKED - 5]))
        before, _, after = train(first), train(middle), train(last)
        prepared.append(prepare(rows))
        return {"first loss": before, "last loss": after}

    def turn() -> int:
        train(prepared[0])
        return rows.size

    return Contender(parameters, check, turn, peak)


def mean_square(codes: Any) -> dict[str, float]:
    """Of the posteriors' means, which every contender can say without noise."""
    return {"mean square of the codes": float(np.square(np.asarray(codes, np.float64)).mean())}


@dataclasses.dataclass(frozen=True)
class Entry:
    """How a contender is started.

    Attributes:
      module: of this package.
      needs: the package whose absence leaves it out.
      environment: what its process finds set beside the parent's; as its users start it, without what the commands
        of this repository tell glibc.
      counts: whether the best variant of its peer is sought among it.
      kind: the function of the module; that of the work unless told.
    """

    module: str
    needs: str
    variant: str = ""
    environment: Mapping[str, str] = dataclasses.field(default_factory=lambda: {"GLIBC_TUNABLES": ""})
    counts: bool = True
    kind: str = ""


_LARGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}  # what aejax's commands ask for, see `experiments`

# A peer is what stands before the comma, its variant what stands behind.
CONTENDERS: dict[str, Entry] = {
    "aejax": Entry("own", "aejax", environment={}),
    "pytorch, eager": Entry("pytorch", "torch", "eager"),
    "pytorch, channels_last": Entry("pytorch", "torch", "channels_last"),
    "pytorch, compiled": Entry("pytorch", "torch", "compiled"),
    "pytorch, fused Adam": Entry("pytorch", "torch", "channels_last, fused"),
    # For information, as their users do not start them.
    "pytorch, huge pages": Entry("pytorch", "torch", "channels_last, fused", _LARGE_PAGES, counts=False),
    "keras, huge pages": Entry("with_keras", "keras", "", {"KERAS_BACKEND": "jax", **_LARGE_PAGES}, counts=False),
    "flax, huge pages": Entry("flax_example", "flax", "", _LARGE_PAGES, counts=False),
    "aejax, no binarization": Entry("own", "aejax", "no binarization", environment={}),
    "aejax, float32": Entry("own", "aejax", "float32", environment={}),
    "pytorch, bfloat16": Entry("pytorch", "torch", "channels_last, fused, bfloat16"),
    "pytorch, bfloat16 compiled": Entry("pytorch", "torch", "bfloat16"),
    "pytorch, bfloat16 CUDA graphs": Entry("pytorch", "torch", "bfloat16 graphs"),
    "pytorch, embedding bag": Entry("pytorch", "torch", "bag"),
    "sae_lens": Entry("with_sae_lens", "sae_lens"),
    "pythae": Entry("with_pythae", "pythae"),
    "keras": Entry("with_keras", "keras", environment={"KERAS_BACKEND": "jax", "GLIBC_TUNABLES": ""}),
    "flax": Entry("flax_example", "flax"),
    "bare forward, 256": Entry("own", "aejax", "256", environment={}, kind="bare_forward"),
    "bare forward, 1024": Entry("own", "aejax", "1024", environment={}, kind="bare_forward"),
}


@functools.cache  # built when the first question comes, so that it disturbs nobody before its turn
def build(work: str, name: str, file: Path) -> Contender:
    entry = CONTENDERS[name]
    module = importlib.import_module(f"experiments.benchmark.contenders.{entry.module}")
    return getattr(module, entry.kind or WORKS[work].kind)(WORKS[work], Given.read(file), entry.variant)


def check(*who: Any) -> dict[str, float]:
    """In the contender's process: its parameters, and the values that equal work makes equal."""
    return {"parameters": build(*who).parameters, **build(*who).check()}


def turn(*who: Any) -> dict[str, float]:
    """Seconds and images of a round, and the seconds of the cores that others took meanwhile."""
    contender = build(*who)
    begin, busy, own = time.perf_counter(), busy_seconds(), time.process_time()
    images = contender.turn()
    seconds, own = time.perf_counter() - begin, time.process_time() - own
    return {"seconds": seconds, "images": images, "others": busy_seconds() - busy - own}


def peak(*who: Any) -> dict[str, float]:
    return {"peak_gib": build(*who).peak()}
