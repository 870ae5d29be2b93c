"""Arrays as users bring them: masked, damaged, under other names, of odd units; and data that changes under a run."""

import io
import warnings
import zipfile

import numpy as np
import pytest
from conftest import mlp, one_device, section, untrained, vectors, whole

import aejax
from aejax import data
from aejax.data import arrays
from aejax.evaluation import Subject
from aejax.inference.encode_split import find_split

X = np.random.default_rng(0).integers(0, 256, (20, 4, 4), np.uint8)
Y = np.arange(20) % 3


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.ma.masked_greater(vectors(5), 1), "values are masked; fill them"),
        ([np.ma.masked_greater(row, 1) for row in vectors(5)], "values are masked; fill them"),
        (vectors(5) * 1j, "has complex numbers .complex64.; give real and imaginary parts"),
    ],
)
def test_masked_and_complex_arrays_are_refused(x, message):
    with pytest.raises(aejax.InputError, match=message):
        data.from_array(x)
    with pytest.raises(aejax.InputError, match=message):
        untrained(mlp(), data.Spec((6,))).encode(x)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"label": [[1], [2, 3], []]}, "labels: give numbers, all of one shape"),
        ({"label": ["a", "b", "c"]}, "labels have dtype <U1, shape .3,.; give whole numbers"),
        ({"factors": [[1], [2, 3], []]}, "factors: give numbers, all of one shape"),
        ({"factors": np.ma.masked_equal([[0], [1], [2]], 1)}, "factors: 1 values are masked"),
    ],
)
def test_labels_and_factors_of_another_form_are_one_line(given, message):
    with pytest.raises(aejax.InputError, match=message):
        data.from_array(vectors(3), **given)


def test_masked_arrays_without_a_mask_are_read():
    np.testing.assert_array_equal(whole(data.from_array(np.ma.array(vectors())))["x"], vectors())
    label = np.ma.masked_equal([0, 1, 2], 1)
    with pytest.raises(aejax.InputError, match="labels: 1 values are masked"):
        data.from_array(vectors(3), label)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_latents_that_are_not_finite_are_refused(bad):
    run = untrained(mlp(), data.Spec((6,)))
    with pytest.raises(aejax.InputError, match="latents: example 1 holds NaN or infinity in float32"):
        run.decode([[0, 0], [bad, 0]])


def test_codes_and_values_that_overflow_are_refused():
    config = mlp(encoder__activation="relu", decoder__activation="relu")
    run = untrained(config, data.Spec((6,)))
    with pytest.raises(aejax.InputError, match="code of example 1 is NaN or infinite"):
        run.encode([[0] * 6, [3e38] * 6])
    with pytest.raises(aejax.InputError, match="example 0 is decoded to NaN or infinity"):
        untrained(config, data.Spec((6,), (0.0,) * 6, (1e6,) * 6)).decode([[3e38, 3e38]])
    spec = data.Spec((6,), mean=(0.0,) * 6, deviation=(1e-9,) * 6)
    with pytest.raises(aejax.InputError, match="example 0 is too far from the training data's mean"):
        untrained(config, spec).encode([[3e38] * 6])


def saved(array, save=np.save):
    file = io.BytesIO()
    save(file, array)
    return file.getvalue()


def read(tmp_path, name, content):
    """Whether a damaged file is read; otherwise it ends in an InputError."""
    (tmp_path / name).write_bytes(content)
    try:
        whole(data.find(section(name=str(tmp_path / name)))["train"])
    except aejax.InputError:
        return False
    return True


@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
def test_any_changed_byte_of_a_header_is_refused_or_read(tmp_path, name):
    rng = np.random.default_rng(0)
    good = saved(vectors(3))
    start = good.index(b"{")
    for place in (*range(start), *range(start, good.index(b"}") + 2)):
        for byte in rng.choice([i for i in range(256) if i != good[place]], 4):
            content = good[:place] + bytes([byte]) + good[place + 1 :]
            if name == "x.npz":
                file = io.BytesIO()
                with zipfile.ZipFile(file, "w") as archive:
                    archive.writestr("x.npy", content)
                content = file.getvalue()
            read(tmp_path, name, content)


def test_headers_that_claim_another_size_are_refused_before_anything_is_allocated(tmp_path):
    good = saved(vectors(3))
    for shape in (b"(9**9, 6), ", b"(2, 6), }  ", b"(3, 6000), }"):
        content = good.replace(b"(3, 6), }" + b" " * (len(shape) - 9), shape)
        assert len(content) == len(good)
        assert content != good
        assert not read(tmp_path, "x.npy", content)
    huge = good.replace(b"(3, 6), }" + b" " * 14, b"(3000000000000, 6), }  ")
    assert huge != good
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x.npy", huge)
    (tmp_path / "x.npz").write_bytes(file.getvalue())
    with pytest.raises(aejax.InputError, match="and 72 follow"):
        data.find(section(name=str(tmp_path / "x.npz")))


def test_members_of_npz_files_that_zipfile_cannot_read_are_refused(tmp_path):
    content = bytearray(saved(vectors(3), lambda file, x: np.savez_compressed(file, x=x)))
    entry = content.index(b"PK\x01\x02")
    for place, value in ((entry + 8, 1), (entry + 10, 77), (entry + 16, content[entry + 16] ^ 1), (60, 255)):
        damaged = content.copy()
        damaged[place] = value
        if place == entry + 8:  # encrypted, as the member itself must say, too
            damaged[6] = 1
        assert not read(tmp_path, "x.npz", bytes(damaged))
    assert read(tmp_path, "x.npz", bytes(content))


def test_arrays_beyond_the_memory_are_refused():
    with pytest.raises(aejax.InputError, match="bytes of arrays, and this machine has"):
        arrays.check_memory(2**60, "x.npz")


@pytest.mark.parametrize(
    ("names", "splits", "left"),
    [
        ({"images": X, "y": Y}, {"train": 20}, ""),
        ({"X": X, "labels": Y[:, None]}, {"train": 20}, ""),
        ({"x_train": X, "y_train": Y, "x_test": X[:5], "y_test": Y[:5]}, {"train": 20, "test": 5}, ""),
        ({"train": X, "train_labels": Y, "val": X[:7], "val_labels": Y[:7]}, {"train": 20, "validation": 7}, ""),
        ({"train_images": X, "train_labels": Y, "dev_images": X[:3], "dev_labels": Y[:3]}, None, ""),
        ({"x": X, "label": Y, "y": Y + 1, "names": np.array(["a"])}, {"train": 20}, "y, names left out, x, label read"),
        ({"x": X, "y": Y / 7}, {"train": 20}, "y left out, x read"),
    ],
)
def test_usual_names_in_npz_files_are_understood_and_others_are_named(tmp_path, names, splits, left):
    np.savez(tmp_path / "x.npz", **names)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = data.find(section(name=str(tmp_path / "x.npz")))
    assert {name: len(source) for name, source in found.items()} == (splits or {"train": 20, "validation": 3})
    assert [left in str(warning.message) for warning in told] == [True] * bool(left)
    for source in found.values():
        taken = whole(source)
        np.testing.assert_array_equal(taken["x"][..., 0], X[: len(source)])
        if "y left out, x read" not in left:
            np.testing.assert_array_equal(taken["label"], Y[: len(source)])


@pytest.mark.parametrize("names", [("x", "y", "labels"), ("train", "val", "valid"), ("a", "b"), ("x", "x_test")])
def test_ambiguous_names_in_npz_files_are_refused(tmp_path, names):
    np.savez(tmp_path / "x.npz", **dict.fromkeys(names, X))
    with pytest.raises(aejax.InputError, match=r"may both be|name the examples 'x', or 'train' and 'test'"):
        data.find(section(name=str(tmp_path / "x.npz")))


def test_other_names_of_splits_are_the_data_sets_own_parts():
    wholes = {"train": data.from_array(vectors(40)), "val": data.from_array(vectors(7))}
    assert len(data.split(wholes, section()).validation) == 7
    with pytest.raises(aejax.InputError, match="val and dev may both be the validation split"):
        data.split({**wholes, "dev": wholes["val"]}, section())


def test_images_of_0_and_1_are_black_and_white_in_training_and_in_use():
    binary = X // 128
    with pytest.warns(UserWarning, match="only 0 and 1 are read as 0 and 255"):
        source = data.from_array(binary)
    np.testing.assert_array_equal(whole(source)["x"][..., 0], binary * 255)
    trained_on_binary = data.Spec.from_dict(data.Spec.of(source, standardize=False).to_dict())
    for given in (binary, binary * 255, binary.astype(bool)):
        np.testing.assert_array_equal(trained_on_binary.prepare(trained_on_binary.check(given))[..., 0], binary)
    gray = data.Spec.of(data.from_array(X), standardize=False)
    dark = gray.prepare(gray.check(binary))  # a dark batch, of a run on 0 to 255
    np.testing.assert_allclose(dark[..., 0], binary / 255, rtol=1e-6)


def test_all_splits_of_a_file_are_read_alike(tmp_path):
    np.savez(tmp_path / "x.npz", train=X, test=X // 128)
    np.testing.assert_array_equal(
        whole(data.find(section(name=str(tmp_path / "x.npz")))["test"])["x"][..., 0], X // 128
    )


def test_the_largest_and_the_least_labels_of_int32_are_taken():
    label = np.array([-(2**31), 2**31 - 1])
    np.testing.assert_array_equal(whole(data.from_array(vectors(2), label))["label"], label)


@pytest.mark.parametrize("label", [2**31, -(2**31) - 1, 2**62])
def test_numbers_beyond_int32_are_refused(label):
    with pytest.raises(aejax.InputError, match=r"labels from .* do not fit in int32"):
        data.from_array(vectors(2), np.array([0, label]))
    with pytest.raises(aejax.InputError, match=r"factors from .* do not fit in int32"):
        data.from_array(vectors(2), factors=np.array([[0], [label]]))


@pytest.mark.parametrize("offset", [0.0, 1.76e9, -1e15])
def test_features_far_from_zero_are_standardized_in_float64(offset):
    x = np.random.default_rng(0).normal((0, offset), (1, 500), (1000, 2))
    spec = data.Spec.of(source := data.from_array(x), standardize=True)
    near = x - x[0]  # NumPy's own sums round beside 1e15
    np.testing.assert_allclose(spec.deviation, near.std(0), rtol=1e-7)
    expected = (near - near.mean(0)) / near.std(0)
    for read in (whole(spec.standardize_source(source))["x"], spec.check(x)):
        assert read.dtype == np.float32
        np.testing.assert_allclose(read, expected, atol=2e-3 if abs(offset) > 1e10 else 1e-6)
    single = x.astype(np.float32)  # exported programs are given no more
    np.testing.assert_allclose(spec.standardize(single), (single - x.mean(0)) / x.std(0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("unit", [1e-30, 1e20])
def test_features_of_units_that_float32_has_no_squares_of_are_named(unit):
    with pytest.raises(aejax.InputError, match=r"feature 1 has a standard deviation of .* give it in another unit"):
        data.Spec.of(data.from_array(vectors(50, 2) * np.array([1, unit])), standardize=True)


def test_ranges_are_printed_as_they_are():
    with pytest.raises(aejax.InputError, match=r"found 0\.0 to 1\.00000011"):
        data.from_array(np.array([[[0, np.nextafter(np.float32(1), np.float32(2))]]]))


def test_paths_that_are_something_else_are_named(tmp_path):
    (tmp_path / "x.txt").write_text("1,2")
    for name, message in (
        (str(tmp_path / "x.txt"), "a file of another kind; give a .npy, .npz, .h5ad, .parquet or .csv file"),
        ("~nobody-is-called-this/x", "data.name: .*no such user"),
        ("x" * 5000, "data.name: .*is no name of a file or folder"),
    ):
        with pytest.raises(aejax.InputError, match=message):
            data.find(section(name=name))


CHANGED = {
    "appended": lambda x: np.concatenate([x, x[:10]]),
    "replaced": lambda x: x + 1,
    "reordered": lambda x: x[::-1],
}


@pytest.mark.slow
@pytest.mark.parametrize("how", CHANGED)
def test_data_that_changed_under_a_run_is_refused(tmp_path, how):
    file, workdir = tmp_path / "x.npy", tmp_path / "run"
    config = mlp(data__name=str(file), steps=4, checkpoint_every=4)
    np.save(file, vectors(100))
    run = aejax.train(config, workdir, devices=one_device(), quiet=True)
    Subject.of(run)
    assert len(find_split(run, "test")) == 10
    np.save(file, CHANGED[how](vectors(100)))
    config.steps = 8
    for use in (
        lambda: aejax.train(config, workdir, devices=one_device(), quiet=True),
        lambda: Subject.of(aejax.load_run(workdir)),
        lambda: find_split(run, "test"),
    ):
        with pytest.raises(aejax.InputError, match=r"trained on other data .*(had 80 examples, now 88|other values)"):
            use()
    assert len(find_split(run, "train[:5]")) == 5  # named, and not the run's own part
    Subject.of(run, splits=data.load(config.data))


def test_small_differences_of_decoders_and_new_labels_are_the_same_data():
    of_levels_higher = lambda n: {"train": data.from_array(np.minimum(X, 255 - n) + np.uint8(n), Y)}  # noqa: E731
    found, after = data.identify({"train": data.from_array(X)}), of_levels_higher(3)
    data.check_identity(found, after, "the run", "")
    with pytest.raises(aejax.InputError, match="train has other values"):
        data.check_identity(found, of_levels_higher(6), "the run", "")
    found = data.identify({"train": data.from_array(X, Y)}, labels=True)
    with pytest.raises(aejax.InputError, match="train has other labels"):
        data.check_identity(found, {"train": data.from_array(X, Y[::-1])}, "the run", "")
    data.check_identity(None, after, "the run", "")
