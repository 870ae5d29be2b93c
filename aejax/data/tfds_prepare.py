"""Downloading and preparing of TFDS data sets, without TensorFlow where that is possible."""

import gzip
import importlib.util
import re
import struct
import tarfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core.utils import file_utils
from tensorflow_datasets.image_classification import cifar, mnist

from aejax.data.synthetic import BUILT_IN
from aejax.errors import InputError, one_of
from aejax.files import local, read_json


def read_idx(path: Path) -> np.ndarray:
    """Reads a gzipped IDX file of unsigned bytes, the format of MNIST and its successors."""
    with gzip.open(path) as file:
        data = file.read()
    dims = data[3]
    shape = struct.unpack(f">{dims}I", data[4 : 4 + 4 * dims])
    return np.frombuffer(data, np.uint8, offset=4 + 4 * dims).reshape(shape)


def _idx(base: Any) -> Any:
    class Builder(base, skip_registration=True):  # type: ignore[call-arg]
        name, server = base.name, base.URL

        def _split_generators(self, dl_manager):
            files = {"train": "train-{}-ubyte.gz", "test": "t10k-{}-ubyte.gz"}
            parts = ("images-idx3", "labels-idx1")
            urls = {split: {part: self.URL + file.format(part) for part in parts} for split, file in files.items()}
            paths = dl_manager.download(urls)
            return {split: self._generate_examples(*(paths[split][part] for part in parts)) for split in files}

        def _generate_examples(self, images, labels):
            for i, (image, label) in enumerate(zip(read_idx(images), read_idx(labels), strict=True)):
                yield i, {"image": Image.fromarray(image), "label": int(label)}

    return Builder


class _Cifar10(cifar.Cifar10, skip_registration=True):  # type: ignore[call-arg]
    name, server = "cifar10", "https://www.cs.toronto.edu/"

    def _split_generators(self, dl_manager):
        info = self._cifar_info
        archive = dl_manager.download(info.url)
        with tarfile.open(archive) as tar:
            names = _read_member(tar, info.prefix + info.label_files[0]).decode().split()
        self.info.features["label"].names = names
        return {
            "train": self._generate_examples("train_", archive, info.train_files),
            "test": self._generate_examples("test_", archive, info.test_files),
        }

    def _generate_examples(self, prefix, archive, files):
        i = 0
        with tarfile.open(archive) as tar:
            for file in files:
                data = np.frombuffer(_read_member(tar, self._cifar_info.prefix + file), np.uint8)
                for record in data.reshape(-1, 1 + 3 * 32 * 32):
                    image = record[1:].reshape(3, 32, 32).transpose(1, 2, 0)
                    picture = Image.fromarray(np.ascontiguousarray(image))
                    yield i, {"id": f"{prefix}{i:05d}", "image": picture, "label": int(record[0])}
                    i += 1


def _read_member(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(name)
    assert file is not None, name
    return file.read()


# The feature classes that a prepared data set may name, under every name by which TFDS knows them.
FEATURES = {
    f"{module}.{cls.__name__}"
    for cls in map(tfds.features.__dict__.get, tfds.features.__all__)
    if isinstance(cls, type)
    for module in (cls.__module__, cls.__module__.replace("_feature", ""))
}

# TFDS's own builders of these data sets open their files through TensorFlow; ours replace only that.
WITHOUT_TENSORFLOW: dict[str, Any] = {
    builder.name: builder for builder in (*map(_idx, (mnist.MNIST, mnist.FashionMNIST, mnist.KMNIST)), _Cifar10)
}


def load_builder(name: str, data_dir: str | None) -> Any:
    """Returns the TFDS builder of a data set, after downloading and preparing the data set if need be.

    Raises InputError if there is no such data set, if it cannot be downloaded, or if it needs TensorFlow.
    """
    base = name.split("/")[0].split(":")[0]
    if base == "huggingface":  # TFDS would print dozens of lines
        raise InputError(
            f"data.name={name!r}: data sets of Hugging Face cannot be read; save the images to a folder or the arrays "
            "to an .npz file, and give its path"
        )
    if data_dir:
        data_dir = str(local(data_dir))
    _check_names(name, base, data_dir)
    try:
        builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
    except tfds.core.DatasetNotFoundError as error:
        known = tfds.list_builders(with_community_datasets=False)
        raise one_of(
            "data.name: data set, file or folder",
            name,
            [*BUILT_IN, "sparse_features", "clicks", "waves", "voices", *known],
        ) from error
    except (ValueError, AssertionError) as error:  # for no valid name, or a data set prepared in another format
        if "File format" in str(error):
            raise InputError(
                f"{name!r} is already prepared in a format that needs TensorFlow to read; prepare it as array_record "
                "in another data.data_dir"
            ) from error
        raise InputError(f"data.name: no data set, file or folder is called {name!r}") from error
    if builder.is_prepared():
        return builder
    if base in WITHOUT_TENSORFLOW:
        builder = WITHOUT_TENSORFLOW[base](data_dir=data_dir, file_format="array_record")
        _check_server(builder.server, name, builder.data_path)
    elif importlib.util.find_spec("tensorflow") is None:
        raise InputError(
            f"preparing {name!r} needs tensorflow: pip install tensorflow, or prepare it elsewhere as array_record and "
            f"set data.data_dir; it is not in {builder.data_path}"
        )
    try:
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    except OSError as error:
        raise _download_error(name, builder.data_path, error) from error
    return builder


def _check_names(name: str, base: str, data_dir: str | None) -> None:
    """Raises InputError if the name, or a feature prepared under it, would make TFDS import code of others."""
    if re.match(r"[^/]*:(?![\d*])", name):
        raise InputError(
            f"data.name={name!r} is in a namespace, whose code would run; name one of TFDS's own data sets"
        )
    if not re.fullmatch(r"\w+", base) or ".." in name:
        raise InputError(f"data.name: no data set, file or folder is called {name!r}")
    for folder in file_utils.list_data_dirs(given_data_dir=data_dir):
        for file in Path(folder, base).glob("**/features.json"):
            for found in _class_names(read_json(file)):
                if not isinstance(found, str) or found not in FEATURES:
                    raise InputError(
                        f"{file} names {found!r}, code that is not TFDS's own; prepare it with TFDS's features"
                    )


def _class_names(values: Any) -> Iterator[Any]:
    """Yields the class names in a features.json, in its current format and in the previous one."""
    for key, value in values.items() if isinstance(values, dict) else ():
        if key in ("pythonClassName", "python_class_name") or (key == "type" and "content" in values):
            yield value
        yield from _class_names(value)
    for value in values if isinstance(values, list) else ():
        yield from _class_names(value)


def _check_server(url: str, name: str, path: Any) -> None:
    """Raises InputError if the server does not answer. TFDS would retry for minutes before saying so."""
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=20).close()
    except urllib.error.HTTPError:
        pass  # an error is an answer, too
    except OSError as error:
        raise _download_error(name, path, error) from error


def _download_error(name: str, path: Any, error: OSError) -> InputError:
    return InputError(
        f"{name!r} could not be downloaded to {path} ({type(error).__name__}: {error}); "
        "set data.data_dir or TFDS_DATA_DIR to where it is prepared"
    )
