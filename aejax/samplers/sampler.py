"""The one interface of all samplers: fitted, drawn from, saved and loaded."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from flax.errors import FlaxError
from flax.traverse_util import flatten_dict, unflatten_dict

from aejax import arguments
from aejax.data import as_array
from aejax.data.arrays import list_npz, read_npz
from aejax.errors import InputError, StorageError, one_of
from aejax.files import local, parse_object, replacing, writable
from aejax.registry import instance
from aejax.samplers.autoregressive import Autoregressive
from aejax.samplers.flow import Flow
from aejax.samplers.gaussian import Gaussian, Mixture

FILE = "sampler.npz"


class Kind(Protocol):
    """A way to fit and to draw: a frozen dataclass whose attributes are its options.

    Its methods read flat codes x [n, d]: float32, or int32 where `discrete`. `params` is a nested dict of arrays.
    """

    discrete: ClassVar[bool]

    def fit(self, x: np.ndarray, seed: int) -> dict[str, Any]: ...
    def sample(self, params: dict[str, Any], num: int, seed: int) -> np.ndarray: ...
    def log_prob(self, params: dict[str, Any], x: np.ndarray) -> np.ndarray: ...


SAMPLERS: dict[str, Any] = {
    "gaussian": Gaussian,
    "mixture": Mixture,
    "flow": Flow,
    "autoregressive": Autoregressive,
}


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Sampler:
    """A distribution fitted on the codes of a run.

    Attributes:
      name: in SAMPLERS.
      kind: its options.
      shape: of one code.
      params: what was fitted, a nested dict of arrays.
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]
    params: dict[str, Any]

    def __repr__(self) -> str:
        return f"Sampler({self.name!r}, shape={self.shape})"

    def sample(self, num: int, seed: int = 0) -> np.ndarray:
        """`num` draws [num, *shape]: latents float32, or of discrete codes the indices, int32."""
        num = arguments.check_count("sample", num, 12 * math.prod(self.shape))
        drawn = self.kind.sample(self.params, num, arguments.check_seed(seed))
        return drawn.reshape(num, *self.shape).astype(np.int32 if self.kind.discrete else np.float32)

    def log_prob(self, codes: Any) -> np.ndarray:
        """Of each of the codes [n, *shape], [n], in nats: a density of latents, a probability of indices."""
        codes = _checked(self.name, codes)
        if codes.shape[1:] != self.shape:
            raise InputError(f"the sampler's codes are (n, *{self.shape}), the given ones {codes.shape}")
        return self.kind.log_prob(self.params, codes.reshape(len(codes), -1))


def build(name: str, **options: Any) -> Kind:
    """The kind called `name` with its options. Raises InputError where there is none, or they do not fit."""
    if not isinstance(name, str) or name not in SAMPLERS:  # a name that a file gives must not import anything
        raise one_of("sampler", name, SAMPLERS)
    return instance("sampler", SAMPLERS, {"name": name, **options})


def fit(name: str, latents: Any, seed: int = 0, **options: Any) -> Sampler:
    """The sampler called `name` of latents [n, ...], or of indices where it is one of discrete codes.

    `options` are attributes of its class in SAMPLERS. The same seed gives the same bits. Raises InputError
    where the name, an option or the latents do not fit, DivergedError where training does.
    """
    kind = build(name, **options)
    latents = _checked(name, latents)
    params = kind.fit(latents.reshape(len(latents), -1), arguments.check_seed(seed))
    return Sampler(name, kind, latents.shape[1:], params)


def check_kind(name: str, discrete: bool) -> None:
    """Raises InputError where the sampler called `name` is not for such codes."""
    if SAMPLERS[name].discrete != discrete:
        kinds = ("continuous", "discrete")
        fitting = ", ".join(n for n, kind in SAMPLERS.items() if kind.discrete == discrete)
        raise InputError(
            f"sampler {name!r} is for {kinds[not discrete]} codes and these are {kinds[discrete]}; choose: {fitting}"
        )


def _checked(name: str, codes: Any) -> np.ndarray:
    """Codes as float32 or int32, or InputError where the sampler called `name` cannot read them."""
    codes = as_array(codes, "codes")
    if codes.ndim < 2 or not codes.size or codes.dtype.kind not in "fiu":
        raise InputError(f"a sampler reads numbers [n, ...], one code or more; got {codes.dtype} {codes.shape}")
    check_kind(name, codes.dtype.kind in "iu")
    bad = ~np.isfinite(codes.reshape(len(codes), -1)).all(1)
    if bad.any():
        raise InputError(f"latent {bad.argmax()} of {len(codes)} holds NaN or infinity; is the run sound?")
    return codes.astype(np.int32 if codes.dtype.kind in "iu" else np.float32)


def save(sampler: Sampler, folder: str | Path) -> None:
    """Writes `folder`/sampler.npz, arrays and a line of JSON, whole or not at all.

    Raises StorageError where it cannot be written.
    """
    options = dataclasses.asdict(sampler.kind)  # type: ignore[call-overload]
    description = json.dumps({"name": sampler.name, "options": options, "shape": sampler.shape})
    arrays = flatten_dict({"params": sampler.params}, sep="/")
    with replacing(writable(local(folder)) / FILE) as file:
        np.savez(file, description=np.array(description), **arrays)


def load(folder: str | Path) -> Sampler:
    """Returns the sampler that `save` wrote.

    Raises InputError where there is none, StorageError where it cannot be read.
    """
    file = local(folder) / FILE
    if not file.is_file():
        raise InputError(f"{file}: no sampler here; save one first")
    try:
        arrays = read_npz(file, list_npz(file))
        described = parse_object(str(arrays.pop("description")))
        kind = build(described["name"], **described["options"])
        params = unflatten_dict(arrays, sep="/")["params"]
        sampler = Sampler(described["name"], kind, tuple(described["shape"]), params)
        sampler.sample(1)  # or arrays that do not belong together would end a later call in a traceback
        return sampler
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, FlaxError) as error:
        reason = " ".join(str(error).split())[:200]
        raise StorageError(f"{file} cannot be read ({type(error).__name__}: {reason}); fit the sampler anew") from error
