"""Sources of TFDS data sets, which are read without TensorFlow."""

import functools
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aejax.data.arrays import as_integers
from aejax.data.images import Crop, Size, decode, resize
from aejax.data.sources import Arrays, Rows, Source, as_crops, from_array
from aejax.errors import InputError


def from_tfds(name: str, data_dir: str, size: Size, fit: str = "crop") -> dict[str, Source]:
    """Returns the splits of a TFDS data set by name, preparing it first if need be; see `images.resize` for `size`."""
    from aejax.data.tfds_prepare import load_builder  # here, because importing TFDS is slow

    builder = load_builder(name, data_dir or os.environ.get("TFDS_DATA_DIR"))
    splits = builder.info.splits
    return {str(split): _tfds_split(builder, str(split), size, fit) for split in splits if splits[split].num_examples}


def _tfds_split(builder: Any, split: str, size: Size, fit: str = "crop") -> Source:
    """Returns the source of one split.

    `x` is the feature `image`, or else the first image or vector. Whole numbers called `label_...`, as in dsprites,
    shapes3d and smallnorb, are the factors of variation. Images stored as 0 and 1, as in dsprites, become 0 and 255.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.proto import tf_example_pb2

    features = builder.info.features
    key = "image" if "image" in features else next((k for k, f in features.items() if len(f.shape) in (1, 3)), None)
    if key is None:
        raise InputError(f"TFDS {builder.name!r} has no image or vector among its features {', '.join(features)}")
    scalars = {k: np.dtype(f.np_dtype).kind for k, f in features.items() if f.shape == ()}
    numbers = [k for k, kind in scalars.items() if kind in "biu" and (k == "label" or k.startswith("label_"))]
    factors = [k for k in numbers if k != "label"]
    name = f"{builder.name}[{split}]"
    encoded = isinstance(features[key], tfds.features.Image)
    if encoded and features[key].np_dtype not in (np.uint8, np.float32):
        raise InputError(f"{name} has images of {np.dtype(features[key].np_dtype)}; only uint8 and float32 are read")
    data = builder.as_data_source(split=split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
    # Of the other features none is decoded: TFDS would open images of any format.
    used = tfds.features.FeaturesDict({k: features[k] for k in (key, *numbers)})

    def examples(rows: list[int], size: Size = 0, crops: np.ndarray | None = None) -> list[dict[str, Any]]:
        found = data.__getitems__(rows)
        if not encoded:
            return [used.deserialize_example_np(record) for record in found]
        # Calling protobuf and Pillow directly takes half the time of TFDS, which calls both, for the same values.
        parsed = (tf_example_pb2.Example.FromString(record).features.feature for record in found)
        how = (key, features[key], numbers, name, size, fit)
        return [_decode_example(each, *how, crop) for each, crop in zip(parsed, as_crops(crops), strict=False)]

    stored = np.asarray(examples([0])[0][key])
    first = from_array(stored[None], name=name, size=size, binary=False)
    binary = first.dtype == np.uint8 and all(np.max(examples([i])[0][key]) <= 1 for i in range(min(len(data), 64)))

    def draw(rows: Rows, crops: np.ndarray | None) -> Arrays:
        # Images of 0 and 1 become 0 and 255 before they are resized. Images are resized one by one, because a batch of
        # large ones takes gigabytes.
        found = examples([int(i) for i in rows], 0 if binary else size, crops)
        images = [np.asarray(example[key]) for example in found]
        if binary:
            images = [image * np.uint8(255) for image in images]
        if not size and any(image.shape != stored.shape for image in images):
            raise InputError(f"{name} has images of several sizes; resize all with data.size=...")
        if size:
            # Those that were cropped as they were decoded have this size already.
            cropped = as_crops(None if encoded and not binary else crops)
            images = [resize(image, size, fit, crop) for image, crop in zip(images, cropped, strict=False)]
        stacked = np.stack(images)
        arrays = {"x": stacked.astype(first.dtype, copy=False)}
        if "label" in numbers:
            arrays["label"] = as_integers([e["label"] for e in found], f"{name}: labels")
        if factors:
            arrays["factors"] = as_integers([[e[key] for key in factors] for e in found], f"{name}: factors")
        return arrays

    files = tuple(Path(file) for file in builder.info.splits[split].filepaths)
    take, drawn = functools.partial(draw, crops=None), draw if fit == "random" else None
    return Source(name, len(data), first.shape, first.dtype, take, files, binary=binary, draw=drawn)


def _decode_example(
    features: Mapping[str, Any],
    image: str,
    feature: Any,
    numbers: Sequence[str],
    name: str,
    size: Size,
    fit: str,
    crop: Crop | None = None,
) -> dict[str, Any]:
    """Decodes the PNG or JPEG image of a tf.train.Example, to [h, w, channels], and reads its whole numbers."""
    is_float = feature.np_dtype == np.float32  # each pixel's 4 bytes are stored as the 4 channels of a PNG
    channels = 4 if is_float else feature.shape[-1] or None
    pixels = decode(io.BytesIO(features[image].bytes_list.value[0]), name, channels, 0 if is_float else size, fit, crop)
    pixels = pixels.view(np.float32) if is_float else pixels
    return {image: pixels, **{number: features[number].int64_list.value[0] for number in numbers}}
