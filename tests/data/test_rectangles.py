"""Images of any height and width: how they are resized, padded and cropped, and models that train on them."""

import numpy as np
import pytest
from PIL import Image

import aejax
from aejax import data
from aejax.config import default, module
from aejax.data.images import Crop, resize
from aejax.sklearn import AutoencoderTransformer

IMAGE = np.random.default_rng(0).integers(0, 256, (10, 20, 3), np.uint8)


def bicubic(image, width, height):
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def test_a_crop_has_the_ratio_that_is_asked_for_and_lies_in_the_center():
    np.testing.assert_array_equal(resize(IMAGE, (10, 10)), IMAGE[:, 5:15])
    np.testing.assert_array_equal(resize(IMAGE, (5, 20)), IMAGE[2:7])
    np.testing.assert_array_equal(resize(IMAGE, (5, 10)), bicubic(IMAGE, 10, 5))
    boxed = Image.fromarray(IMAGE).resize((16, 4), Image.Resampling.BICUBIC, (0, 2, 20, 7))
    np.testing.assert_array_equal(resize(IMAGE, (4, 16)), np.asarray(boxed))


def test_padding_keeps_the_whole_image_between_zeros():
    high = resize(IMAGE, (20, 20), "pad")
    np.testing.assert_array_equal(high[5:15], IMAGE)
    assert not np.concatenate([high[:5], high[15:]]).any()
    wide = resize(IMAGE, (5, 14), "pad")
    np.testing.assert_array_equal(wide[:, 2:12], bicubic(IMAGE, 10, 5))
    assert not np.concatenate([wide[:, :2], wide[:, 12:]], 1).any()
    np.testing.assert_array_equal(resize(IMAGE, (7, 9), "stretch"), bicubic(IMAGE, 9, 7))


def test_random_crops_are_the_named_part_of_the_largest_rectangle():
    np.testing.assert_array_equal(resize(IMAGE, (5, 20), "random", Crop(1, 0.5, 1)), IMAGE[5:])
    np.testing.assert_array_equal(resize(IMAGE, (5, 20), "random", Crop(1, 0.5, 0)), IMAGE[:5])
    np.testing.assert_array_equal(resize(IMAGE, (5, 5), "random", Crop(2, 0, 1)), IMAGE[5:, :5])
    np.testing.assert_array_equal(resize(IMAGE, (5, 10), "random", Crop(2, 1, 0)), IMAGE[:5, 10:])


def section(**changes):
    config = default().data
    config.update(changes)
    return config


def test_files_shards_and_arrays_become_rectangles(tmp_path):
    (folder := tmp_path / "images").mkdir()
    for i in range(4):
        Image.fromarray(np.roll(IMAGE, i, 1)).save(folder / f"{i}.png")
    data.write_shards(folder, tmp_path / "shards")
    np.save(tmp_path / "x.npy", np.stack([np.roll(IMAGE, i, 1) for i in range(4)]))
    for name in ("images", "shards", "x.npy"):
        for fit in ("crop", "pad", "random"):
            source = data.find(section(name=str(tmp_path / name), size=6, width=8, fit=fit))["train"]
            x = source.take(np.arange(4))["x"]
            assert source.shape == (6, 8, 3)
            for i in range(4):
                np.testing.assert_array_equal(x[i], resize(np.roll(IMAGE, i, 1), (6, 8), fit))
            if fit == "random":
                drawn = source.draw(np.arange(1), np.array([[1.0, 0, 0]]))["x"][0]
                np.testing.assert_array_equal(drawn, resize(IMAGE, (6, 8), fit, Crop(1, 0, 0)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 9}, r"data\.width=9 needs data\.size, the height of the resized images, which is 0; set both"),
        ({"name": "shapes", "size": 16, "width": 9}, r"data\.width=9 resizes images, and shapes is made of data\.size"),
        ({"name": "waves", "size": 16, "width": 9}, r"data\.width=9 resizes images, and waves is made of data\.size"),
        ({"name": "plane", "size": 4, "width": 9}, r"plane: data\.size resizes uint8 images only"),
    ],
)
def test_what_cannot_be_is_one_line(changes, message):
    with pytest.raises(aejax.InputError, match=message) as raised:
        data.find(section(**changes))
    assert "\n" not in str(raised.value)


def test_a_negative_width_is_one_line():
    config = default()
    config.data.width = -3
    with pytest.raises(aejax.InputError, match=r"data\.width must not be negative, and below 2\*\*31, got -3"):
        aejax.fit(config, IMAGE[None])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["conv", "resnet", "vit"])
def test_models_train_on_sides_that_strides_do_not_divide(name):
    x = np.random.default_rng(0).integers(0, 256, (12, 20, 30, 1), np.uint8)
    config = default()
    config.data.update(size=9, width=14, fit="pad")
    options = {"features": 8, "layers": 1, "heads": 2} if name == "vit" else {"features": (4, 4)}
    config.encoder, config.decoder = module(name, **options), module(name, **options)
    config.bottleneck = module("dense", features=3)
    config.batch_size, config.steps, config.checkpoint_every, config.log_every = 4, 3, 3, 1
    run = aejax.fit(config, x, quiet=True)
    read = np.stack([resize(image, (9, 14), "pad") for image in x])
    assert run.reconstruct(read).shape == (12, 9, 14, 1)


@pytest.mark.slow
def test_the_estimator_takes_rectangles():
    config = default()
    config.encoder, config.decoder = module("conv", features=(4, 8)), module("conv", features=(8, 4))
    config.bottleneck = module("dense", features=3)
    config.steps = config.checkpoint_every = 2
    x = np.random.default_rng(0).random((10, 35))
    model = AutoencoderTransformer(config=config, image_shape=(5, 7), random_state=0).fit(x)
    assert model.inverse_transform(model.transform(x)).shape == (10, 35)
