"""The common interface of all samplers: fitting, sampling, densities and files."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from flax.errors import FlaxError
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Float, Num
from numpy.typing import ArrayLike

from aejax import arguments
from aejax.data import as_array
from aejax.data.arrays import list_npz, read_npz
from aejax.errors import InputError, StorageError, one_of
from aejax.files import local, parse_object, replacing, writable
from aejax.registry import instantiate
from aejax.samplers.autoregressive import Autoregressive
from aejax.samplers.flow import Flow
from aejax.samplers.gaussian import Gaussian, Mixture

FILE = "sampler.npz"

Codes = Num[np.ndarray, "n d"]
Params = dict[str, Any]  # nested, with arrays as leaves


@runtime_checkable
class Kind(Protocol):
    """A family of distributions: a frozen dataclass whose attributes are its options.

    Its methods take flat codes x [n, d], float32 or, if `discrete`, int32. `params` is a nested dict of arrays.
    """

    discrete: ClassVar[bool]

    def fit(self, x: Codes, seed: int) -> Params: ...
    def sample(self, params: Params, num: int, seed: int) -> Codes: ...
    def log_prob(self, params: Params, x: Codes) -> Float[np.ndarray, " n"]: ...


SAMPLERS: dict[str, type[Kind]] = {
    "gaussian": Gaussian,
    "mixture": Mixture,
    "flow": Flow,
    "autoregressive": Autoregressive,
}


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Sampler:
    """A distribution fitted to the codes of a run.

    Attributes:
      name: key in SAMPLERS.
      kind: family of the distribution, with its options.
      shape: shape of one code.
      params: fitted parameters, a nested dict of arrays.
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]
    params: Params

    def __repr__(self) -> str:
        return f"Sampler({self.name!r}, shape={self.shape})"

    def sample(self, num: int, seed: int = 0) -> Num[np.ndarray, "{num} ..."]:
        """Returns `num` samples [num, *shape]: latents, float32, or indices of discrete codes, int32."""
        num = arguments.check_count("sample", num, 12 * math.prod(self.shape))
        samples = self.kind.sample(self.params, num, arguments.check_seed(seed))
        return samples.reshape(num, *self.shape).astype(np.int32 if self.kind.discrete else np.float32)

    def log_prob(self, codes: ArrayLike) -> Float[np.ndarray, " n"]:
        """Returns the log density of latents, or log probability of indices, [n, *shape], in nats, [n]."""
        codes = _check_codes(self.name, codes)
        if codes.shape[1:] != self.shape:
            raise InputError(f"the sampler's codes are (n, *{self.shape}), the given ones {codes.shape}")
        return self.kind.log_prob(self.params, codes.reshape(len(codes), -1))


def build(name: str, **options: Any) -> Kind:
    """Builds the kind called `name`. Raises InputError if it is not in SAMPLERS or the options do not fit."""
    if not isinstance(name, str) or name not in SAMPLERS:  # a name that stands in a file must not import anything
        raise one_of("sampler", name, SAMPLERS)
    return instantiate("sampler", SAMPLERS, {"name": name, **options})


def fit(name: str, latents: ArrayLike, seed: int = 0, **options: Any) -> Sampler:
    """Fits the sampler called `name` to latents [n, ...], or to indices if it is for discrete codes.

    `options` are attributes of its class in SAMPLERS. The same seed gives the same bits. Raises InputError if the name,
    an option or the latents do not fit, DivergedError if training diverges.
    """
    kind = build(name, **options)
    latents = _check_codes(name, latents)
    params = kind.fit(latents.reshape(len(latents), -1), arguments.check_seed(seed))
    return Sampler(name, kind, latents.shape[1:], params)


def check_kind(name: str, discrete: bool) -> None:
    """Raises InputError if the sampler called `name` is for continuous codes and these are discrete, or vice versa."""
    if SAMPLERS[name].discrete != discrete:
        kinds = ("continuous", "discrete")
        suitable = ", ".join(n for n, kind in SAMPLERS.items() if kind.discrete == discrete)
        raise InputError(
            f"sampler {name!r} is for {kinds[not discrete]} codes and these are {kinds[discrete]}; choose: {suitable}"
        )


def _check_codes(name: str, codes: ArrayLike) -> np.ndarray:
    """Returns codes as float32 or int32; raises InputError if the sampler called `name` cannot read them."""
    if (statistics := getattr(codes, "statistics", None)) is not None:  # normalized ones, from a file
        codes = statistics.restore(codes)
    codes = as_array(codes, "codes")
    if codes.ndim < 2 or not codes.size or codes.dtype.kind not in "fiu":
        raise InputError(f"a sampler reads numbers [n, ...], one code or more; got {codes.dtype} {codes.shape}")
    check_kind(name, codes.dtype.kind in "iu")
    bad = ~np.isfinite(codes.reshape(len(codes), -1)).all(1)
    if bad.any():
        raise InputError(f"latent {bad.argmax()} of {len(codes)} holds NaN or infinity; is the run sound?")
    return codes.astype(np.int32 if codes.dtype.kind in "iu" else np.float32)


def save(sampler: Sampler, folder: str | Path) -> None:
    """Writes the sampler to `folder`/sampler.npz, its arrays and a line of JSON, atomically.

    Raises StorageError if the file cannot be written.
    """
    options = dataclasses.asdict(sampler.kind)  # type: ignore[call-overload]
    description = json.dumps({"name": sampler.name, "options": options, "shape": sampler.shape})
    arrays = flatten_dict({"params": sampler.params}, sep="/")
    with replacing(writable(local(folder)) / FILE) as file:
        np.savez(file, description=np.array(description), **arrays)


def load(folder: str | Path) -> Sampler:
    """Loads the sampler that `save` wrote to `folder`.

    Raises InputError if there is none, StorageError if it cannot be read.
    """
    file = local(folder) / FILE
    if not file.is_file():
        raise InputError(f"{file}: no sampler here; save one first")
    try:
        arrays = read_npz(file, list_npz(file))
        description = parse_object(str(arrays.pop("description")))
        kind = build(description["name"], **description["options"])
        params = unflatten_dict(arrays, sep="/")["params"]
        sampler = Sampler(description["name"], kind, tuple(description["shape"]), params)
        sampler.sample(1)  # so that arrays that do not fit together fail here, not in a later call
        return sampler
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, FlaxError) as error:
        reason = " ".join(str(error).split())[:200]
        raise StorageError(f"{file} cannot be read ({type(error).__name__}: {reason}); fit the sampler anew") from error
