"""Downloads and prepares TFDS data sets without TensorFlow where that is possible."""

import gzip
import importlib.util
import re
import struct
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core import registered
from tensorflow_datasets.core.utils import file_utils
from tensorflow_datasets.image_classification import cifar, mnist

from aejax.data.synthetic import EMBEDDED
from aejax.errors import InputError, one_of
from aejax.storage import local, read_json


def read_idx(path: Path) -> np.ndarray:
    """A gzipped IDX file of unsigned bytes, the format of MNIST and its successors."""
    with gzip.open(path) as file:
        data = file.read()
    dims = data[3]
    shape = struct.unpack(f">{dims}I", data[4 : 4 + 4 * dims])
    return np.frombuffer(data, np.uint8, offset=4 + 4 * dims).reshape(shape)


def _idx(base: Any) -> Any:
    class Builder(base):
        source = base.URL

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


def _cifar(base: Any) -> Any:
    class Builder(base):
        source = "https://www.cs.toronto.edu/"

        def _split_generators(self, dl_manager):
            info = self._cifar_info
            archive = dl_manager.download(info.url)
            with tarfile.open(archive) as tar:
                names = _member(tar, info.prefix + info.label_files[0]).decode().split()
            self.info.features["label"].names = names
            return {
                "train": self._generate_examples("train_", archive, info.train_files),
                "test": self._generate_examples("test_", archive, info.test_files),
            }

        def _generate_examples(self, prefix, archive, files):
            i = 0
            with tarfile.open(archive) as tar:
                for file in files:
                    data = np.frombuffer(_member(tar, self._cifar_info.prefix + file), np.uint8)
                    for record in data.reshape(-1, 1 + 3 * 32 * 32):
                        image = record[1:].reshape(3, 32, 32).transpose(1, 2, 0)
                        picture = Image.fromarray(np.ascontiguousarray(image))
                        yield i, {"id": f"{prefix}{i:05d}", "image": picture, "label": int(record[0])}
                        i += 1

    return Builder


def _member(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(name)
    assert file is not None, name
    return file.read()


# The classes of features that a prepared data set may name, by every name under which TFDS knows them.
FEATURES = {
    f"{module}.{cls.__name__}"
    for cls in map(tfds.features.__dict__.get, tfds.features.__all__)
    if isinstance(cls, type)
    for module in (cls.__module__, cls.__module__.replace("_feature", ""))
}

# TFDS's own builders open their files through TensorFlow; these keep everything else of them.
WITHOUT_TENSORFLOW: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "mnist": (_idx, mnist.MNIST),
    "fashion_mnist": (_idx, mnist.FashionMNIST),
    "kmnist": (_idx, mnist.KMNIST),
    "cifar10": (_cifar, cifar.Cifar10),
}


def prepared(name: str, data_dir: str | None) -> Any:
    """The builder of a data set that is ready to be read, downloading it if need be.

    Raises InputError where TensorFlow would be needed, or where there is no such data set.
    """
    base = name.split("/")[0].split(":")[0]
    if base == "huggingface":  # TFDS would print dozens of lines
        raise InputError(
            f"data.name={name!r}: data sets of Hugging Face are not read; save its images to a folder, or its arrays "
            "to a .npz file, and give its path"
        )
    if data_dir:
        data_dir = str(local(data_dir))
    _check_names(name, base, data_dir)
    try:
        builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
    except tfds.core.DatasetNotFoundError as error:
        known = tfds.list_builders(with_community_datasets=False)
        raise one_of("data.name: data set, file or folder", name, [*EMBEDDED, *known]) from error
    except (ValueError, AssertionError) as error:  # no name of a data set at all, or one prepared in another format
        if "File format" in str(error):
            raise InputError(
                f"{name!r} is prepared there in a format that needs TensorFlow to read; prepare it as array_record, "
                "in another data.data_dir"
            ) from error
        raise InputError(f"data.name: no data set, file or folder is called {name!r}") from error
    if builder.is_prepared():
        return builder
    if base in WITHOUT_TENSORFLOW:
        make, original = WITHOUT_TENSORFLOW[base]
        with registered.skip_registration():
            builder_class = make(original)
        builder_class.name = base
        builder = builder_class(data_dir=data_dir, file_format="array_record")
        _reach(builder_class.source, name, builder.data_path)
    elif importlib.util.find_spec("tensorflow") is None:
        raise InputError(
            f"preparing {name!r} needs TensorFlow: pip install 'aejax[tensorflow]', "
            f"or prepare it elsewhere as array_record and set data.data_dir; looked in {builder.data_path}"
        )
    try:
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    except OSError as error:
        raise _unfetched(name, builder.data_path, error) from error
    return builder


def _check_names(name: str, base: str, data_dir: str | None) -> None:
    """Raises InputError where the name, or what is prepared under it, makes TFDS import code that is not its own."""
    if re.match(r"[^/]*:(?![\d*])", name):
        raise InputError(f"data.name={name!r} is of a namespace, whose code would run; name a data set of TFDS's own")
    if not re.fullmatch(r"\w+", base) or ".." in name:
        raise InputError(f"data.name: no data set, file or folder is called {name!r}")
    for folder in file_utils.list_data_dirs(given_data_dir=data_dir):
        for file in Path(folder, base).glob("**/features.json"):
            for found in _classes(read_json(file)):
                if not isinstance(found, str) or found not in FEATURES:
                    raise InputError(
                        f"{file} names {found!r}, code that is not TFDS's; prepare it with TFDS's features"
                    )


def _classes(values: Any) -> Iterator[Any]:
    """Yields the names of classes in a features.json, of today's format and of the one before."""
    for key, value in values.items() if isinstance(values, dict) else ():
        if key in ("pythonClassName", "python_class_name") or (key == "type" and "content" in values):
            yield value
        yield from _classes(value)
    for value in values if isinstance(values, list) else ():
        yield from _classes(value)


def _reach(url: str, name: str, path: Any) -> None:
    """Asks the server for a sign of life: TFDS would retry for minutes before it said that there is none."""
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=20).close()
    except urllib.error.HTTPError:
        pass  # it answered
    except OSError as error:
        raise _unfetched(name, path, error) from error


def _unfetched(name: str, path: Any, error: OSError) -> InputError:
    return InputError(
        f"{name!r} could not be downloaded to {path} ({type(error).__name__}: {error}); "
        "set data.data_dir or TFDS_DATA_DIR to where it is prepared"
    )
