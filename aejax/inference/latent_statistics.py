"""Statistics of latents: measured on the train split, kept with the run, and applied to what others train on."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from tqdm import tqdm

from aejax.data import Source, stream
from aejax.data.sources import Arrays
from aejax.errors import InputError, StorageError, shown
from aejax.files import inside, read_json, write_whole
from aejax.inference.batches import limit_batch
from aejax.workdir import checkpoint

FILE = "latents.json"  # in the folder of a checkpoint
# Examples that are measured: as many as hold _VALUES values, but not below _LEAST nor above _MOST.
_MOST, _LEAST, _VALUES = 16_384, 4_096, 2**31


@dataclasses.dataclass(frozen=True)
class LatentStatistics:
    """Mean and standard deviation of each channel of a run's latents.

    Channels are the last axis: the units of [n, units], the features of [n, tokens, features] or [n, h, w, features].

    Attributes:
      mean, deviation: mean and standard deviation of each channel; a constant channel has the standard deviation 1.
      of: what they come from, e.g. "60,000 examples of train".
      parameters: `fingerprint` of the run whose latents they describe.
    """

    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    of: str
    parameters: str

    def normalize(self, z: ArrayLike) -> Float[np.ndarray, "n ..."]:
        """Returns latents [n, *latent] with mean 0 and standard deviation 1 in each channel, float32."""
        return np.asarray((self._check(z) - np.array(self.mean)) / np.array(self.deviation), np.float32)

    def restore(self, z: ArrayLike) -> Float[np.ndarray, "n ..."]:
        """Returns the latents that `normalize` has normalized, float32."""
        with np.errstate(over="ignore"):
            return np.asarray(self._check(z) * np.array(self.deviation) + np.array(self.mean), np.float32)

    def _check(self, z: ArrayLike) -> np.ndarray:
        z = np.asarray(z, np.float64)
        if z.shape[-1:] != (len(self.mean),):
            raise InputError(f"the statistics are of {len(self.mean)} channels, the latents' shape is {z.shape}")
        return z

    def to_dict(self) -> dict[str, Any]:
        """Returns the statistics as JSON holds them."""
        return {**dataclasses.asdict(self), "mean": list(self.mean), "deviation": list(self.deviation)}

    @classmethod
    def from_dict(cls, values: Any, where: str | Path) -> "LatentStatistics":
        """Returns the statistics that `to_dict` wrote. Raises StorageError for anything else in the file `where`."""
        try:
            mean, deviation = (tuple(map(float, values[key])) for key in ("mean", "deviation"))
            words = [values[key] for key in ("of", "parameters")]
            if len(mean) != len(deviation) or not all(type(each) is str for each in words):
                raise ValueError
            if not all(map(math.isfinite, mean + deviation)) or min(deviation) <= 0:
                raise ValueError
        except (KeyError, TypeError, ValueError) as error:
            raise StorageError(f"{where} holds no statistics of latents, got {shown(values)}; remove it") from error
        return cls(mean, deviation, *words)


class Latents(np.ndarray):
    """Normalized latents from a file, with the `statistics` that `Run.decode` restores them by.

    Rows, copies, and what NumPy joins of such arrays keep the statistics. Whether the result of arithmetic is still
    normalized, as that of an interpolation is, only its author knows: `decode` refuses it until `np.asarray` makes a
    plain array of it, and takes that with `statistics` as normalized and without them as the network's. JAX, PyTorch
    and other functions of NumPy return plain arrays, too.
    """

    _statistics: LatentStatistics | None = None
    _computed = False

    @classmethod
    def of(cls, z: np.ndarray, statistics: LatentStatistics | None, computed: bool = False) -> "Latents":
        """Returns a view of z [n, *latent] with its statistics; `computed` says that it is a result of arithmetic."""
        view = z.view(cls)
        view._statistics, view._computed = statistics, computed
        return view

    @property
    def statistics(self) -> LatentStatistics | None:
        """Returns what the latents are normalized by. Raises InputError for a result of arithmetic."""
        if self._computed:
            raise InputError(
                "the array is a result of arithmetic on normalized latents; give np.asarray(z), and "
                "statistics=run.latent_statistics unless it is restored"
            )
        return self._statistics

    def __array_finalize__(self, made_from: Any) -> None:
        self._statistics = getattr(made_from, "_statistics", None)
        self._computed = getattr(made_from, "_computed", False)

    def __array_wrap__(self, array: np.ndarray, context: Any = None, return_scalar: bool = False) -> Any:
        """Marks the results of arithmetic, of which one in place is `self`."""
        made = super().__array_wrap__(array, context, return_scalar)
        if isinstance(made, Latents):
            made._computed = True
        return made

    def __array_function__(self, function: Callable, types: Any, arguments: Any, options: Any) -> Any:
        made = super().__array_function__(function, types, arguments, options)
        if function is not np.concatenate or options.get("out") is not None:  # which np.stack and others call
            return made
        parts = arguments[0]
        first: Any = next(part for part in parts if isinstance(part, Latents))
        if any(getattr(part, "_statistics", None) != first._statistics for part in parts):
            raise InputError(
                "normalized latents are joined with others, or with latents of another run; join np.asarray of each, "
                "and give statistics= to decode"
            )
        return Latents.of(made, first._statistics, any(getattr(part, "_computed", False) for part in parts))

    def __reduce__(self) -> Any:
        return (Latents.of, (np.asarray(self), self._statistics, self._computed))


def measure(encode: Callable[[Arrays], np.ndarray], source: Source, name: str, parameters: str) -> LatentStatistics:
    """Returns the statistics of the latents that `encode` makes of the examples of `source`, which `name` names.

    Measures at most 16,384 examples, always the same: of large images fewer, but not below 4,096. Raises InputError for
    examples that do not fit the run.
    """
    source = source.sample(int(np.clip(_VALUES // math.prod(source.shape), _LEAST, _MOST)))
    size = limit_batch(source.shape)
    rows = np.split(np.arange(len(source)), range(size, len(source), size))
    count, total, squares = 0, np.zeros(()), np.zeros(())
    first: np.ndarray | None = None
    with tqdm(total=len(source), unit=" examples", desc="statistics", dynamic_ncols=True, disable=None) as bar:
        for arrays in stream(source, rows.__getitem__, 0, len(rows)):
            code = encode(arrays)
            z = code.astype(np.float64).reshape(-1, code.shape[-1])
            first = z.mean(0) if first is None else first  # subtracting it keeps the digits of means far from 0
            count, total = count + len(z), total + (z - first).sum(0)
            squares = squares + np.square(z - first).sum(0)
            bar.update(len(code))
    assert first is not None
    mean, deviation = first + total / count, np.sqrt(np.maximum(squares / count - np.square(total / count), 0))
    deviation[deviation <= np.finfo(np.float32).eps * np.abs(mean)] = 1
    of = f"{len(source):,} examples of {name}"
    return LatentStatistics(tuple(mean.tolist()), tuple(deviation.tolist()), of, parameters)


def load(workdir: Path, step: int, parameters: str) -> LatentStatistics | None:
    """Returns the statistics that `save` wrote for the step, or None if there are none of these parameters."""
    for place in (
        (checkpoint.FOLDER, str(step), FILE),
        ("latents", f"{step}.json"),
    ):  # second, where they were first kept
        file = inside(workdir, *place)
        if file.exists():
            found = LatentStatistics.from_dict(read_json(file), file)
            if found.parameters == parameters:  # otherwise the step was trained again
                return found
    return None


def save(workdir: Path, step: int, statistics: LatentStatistics) -> None:
    """Writes the statistics into the checkpoint of the step, with which they are copied and removed.

    Raises StorageError if they cannot be written, or the checkpoint has been removed meanwhile.
    """
    file = inside(workdir, checkpoint.FOLDER, str(step), FILE)
    write_whole(file, json.dumps(statistics.to_dict(), indent=2) + "\n")
