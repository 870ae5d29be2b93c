"""Training of objects in place of a config's names."""

import json
import pickle
import re
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import assert_trees_equal, config_of, mlp, one_device, vectors

import aejax
from aejax import models
from aejax.config import OWN
from aejax.data import Spec
from aejax.inference.parts import describe_parts, list_own
from aejax.objectives import Corruption
from aejax.objectives.likelihoods import Bernoulli, Gaussian, SquaredError
from aejax.training import optimizers
from aejax.training.task import build_parts, make_config

QUICK = {"steps": 8, "batch_size": 16, "log_every": 2, "checkpoint_every": 4, "samples": 8}


def squash(h):
    return jnp.tanh(h)


class Halved(nn.Module):
    """A bottleneck that no config can name, because its activation is a function."""

    features: int
    activation: object = squash

    @nn.compact
    def __call__(self, h, *, keys=None, train=False):
        z = self.activation(nn.Dense(self.features)(h)) / 2
        return aejax.Code(z=z, losses={"size": jnp.square(z).sum(-1)})


def spread(c, target=1.0):
    return jnp.square(c.whole(c.z).var(0) - target).sum()


def model_of(bottleneck, encoder=None):
    return aejax.Autoencoder(encoder or models.MLPEncoder((5,)), bottleneck, models.MLPDecoder((6,), (5,)))


def parts(features=2, **changes):
    options = {"spread": {"function": spread, "target": 0.5}}
    given = {
        "model": model_of(Halved(features)),
        "objective": aejax.Objective(SquaredError(), {"size": 0.1, "spread": 2.0}, options=options),
        "optimizer": optax.adam(1e-3),
    }
    return {**given, **changes}


def fit(workdir=None, **given):
    return aejax.fit(**{"data": vectors(), "devices": one_device(), "quiet": True, **QUICK, **given}, workdir=workdir)


def test_objects_train_as_their_config_does_bit_for_bit(tmp_path):
    config = mlp(corruption={"name": "gaussian", "level": 0.1}, ema=0.9, seed=3)
    config.bottleneck = aejax.config.module("gaussian", features=2)
    config.objective.weights.kl = 0.5
    named = aejax.fit(config, vectors(), tmp_path / "named", devices=one_device(), quiet=True)
    given = {
        "model": aejax.Autoencoder(
            models.MLPEncoder(features=(5,), activation="tanh"),
            models.GaussianBottleneck(features=2),
            models.MLPDecoder(shape=(6,), features=(5,), activation="tanh"),
        ),
        "objective": aejax.Objective(SquaredError(), weights={"kl": 0.5}),
        "optimizer": optimizers.build(config.optim, config.steps),
        "corruption": Corruption("gaussian", 0.1),
        "ema": 0.9,
        "seed": 3,
    }
    run = fit(tmp_path / "own", **given)
    assert_trees_equal(run.variables, named.variables)
    assert_trees_equal(fit(tmp_path / "own", **given).variables, run.variables)  # nothing is left to do
    read = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("named", "own")]
    assert [each.pop("optim")["name"] for each in read] == ["adam", OWN]
    assert read[1]["bottleneck"].pop("shape") == []
    assert read[1] == read[0] | {"pre_bias": False}  # of which no model here has one
    assert_trees_equal(aejax.load_run(tmp_path / "own").encode(vectors()), run.encode(vectors()))  # needs no objects


@pytest.mark.slow
@pytest.mark.parametrize("name", ["beta_tcvae", "sparse", "vq_vae", "resnet_vae", "mae", "vae_gan", "topk", "iwae"])
def test_the_parts_of_a_config_are_described_as_the_config(name):
    config = config_of(name)
    shape = (3,) if config.data.name == "plane" else (5,) if config.data.name == "sheet" else (8, 8, 1)
    made = build_parts(config, Spec(shape))
    found = make_config(made, shape, {})
    assert models.build(found, shape) == made.model
    for key in ("encoder", "bottleneck", "decoder", "likelihood", "adversary"):
        assert found[key]["name"] == config[key]["name"], key
    assert dict(found.objective.weights) == dict(config.objective.weights)


def test_what_a_config_cannot_make_is_said_to_be_code():
    class Wider(aejax.Autoencoder):
        pass

    class Doubled(aejax.Objective):
        pass

    plain = model_of(models.DenseBottleneck(2))
    wider = Wider(plain.encoder, plain.bottleneck, plain.decoder)
    objective = aejax.Objective(SquaredError(), {"odd": 1.0}, options={"odd": {"function": lambda c: c.z.sum(-1)}})
    assert list_own(describe_parts(plain, objective, (6,))) == []
    assert list_own(describe_parts(plain.clone(learned_scale=True), objective, (6,))) == ["encoder"]
    assert list_own(describe_parts(wider, objective, (6,))) == ["encoder"]
    assert list_own(describe_parts(plain, Doubled(SquaredError()), (6,))) == ["likelihood"]
    function = describe_parts(plain, objective, (6,))["objective"]["options"]["odd"]["function"]
    assert re.match(r"<function .*<lambda>>$", function)  # no name that could be imported, and no address


@pytest.mark.slow
def test_parts_that_no_config_can_name_train_resume_and_serve(tmp_path):
    whole = fit(**parts())
    fit(tmp_path, **parts(), **QUICK | {"steps": 4})
    run = fit(tmp_path, **parts())
    assert_trees_equal(run.variables, whole.variables)
    assert_trees_equal(fit(tmp_path, **parts()).variables, whole.variables)  # nothing is left to do
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["bottleneck"]["name"] == config["optim"]["name"] == OWN
    assert re.match(r"Halved\( # attributes features = 2 activation = .*squash", config["bottleneck"]["code"])
    assert "0x" not in config["bottleneck"]["code"]  # an address differs from process to process
    assert config["objective"]["options"]["spread"] == {"function": "test_parts:spread", "target": 0.5}
    assert config["encoder"] == {"name": "mlp", "features": [5]}

    with pytest.raises(
        aejax.InputError, match=r"its bottleneck is code.*load_run\(workdir, model=..., objective=...\)"
    ):
        aejax.load_run(tmp_path)
    given = {key: parts()[key] for key in ("model", "objective")}
    loaded = aejax.load_run(tmp_path, **given)
    x = vectors(7)
    for method in ("encode", "reconstruct"):
        np.testing.assert_array_equal(getattr(loaded, method)(x), getattr(run, method)(x))
    assert np.abs(loaded.encode(x)).max() < 0.5
    assert loaded.generate(3).shape == (3, 6)
    assert loaded.evaluate(x, groups=["reconstruction"])["reconstruction"]["squared_error"].value > 0
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(loaded)).encode(x), run.encode(x))
    with pytest.raises(aejax.InputError, match=r"another model or objective.*features = 2.*-> .*features = 3"):
        aejax.load_run(tmp_path, **{**given, "model": parts(features=3)["model"]})
    with pytest.raises(aejax.InputError, match=r"holds a run of another config.*features = 2.*-> .*features = 3"):
        fit(tmp_path, **parts(features=3))
    with pytest.raises(aejax.InputError, match=r"change=optim.lr: the optimizer was given as an object"):
        fit(tmp_path, **parts(), change=["optim.lr"])
    assert fit(tmp_path, **parts(), **QUICK | {"steps": 12}, change=["steps"]).changes[0].after == 12
    with pytest.raises(aejax.InputError, match="give both or leave both out"):
        aejax.load_run(tmp_path, model=given["model"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": None, "optimizer": None}, r"fit without a config needs model=, optimizer="),
        ({"data": None}, r"fit without a config needs data="),
        ({"model": models.MLPEncoder((5,))}, r"model must be an aejax.Autoencoder\(.*\), got MLPEncoder"),
        (
            {"model": model_of(None)},
            r"model.bottleneck must be a linen module, got None",
        ),
        (
            {"objective": SquaredError()},
            r"objective must be an aejax.Objective\(likelihood, weights=\{...\}\), got Squ",
        ),
        ({"objective": aejax.Objective(Bernoulli)}, r"objective.likelihood must be a likelihood, e.g. Bernoulli\(\)"),
        ({"optimizer": optax.adam}, r"optimizer must be one of optax, e.g. optax.adam\(1e-3\), got <function adam"),
        ({"optimizer": "adam"}, r"optimizer must be one of optax.*, got 'adam'"),
        ({"data": vectors(features=5)}, r"the decoder makes \(6,\) but the input is \(5,\); make them equal"),
        (
            {"model": model_of(Halved(2), models.ConvEncoder((5,)))},
            r"does not fit examples of \(6,\)|images",
        ),
        (
            {"objective": aejax.Objective(SquaredError(), {"sizes": 0.1})},
            r"term 'sizes' is unknown; did you mean 'size'",
        ),
        ({"batchsize": 8}, r"fit: argument 'batchsize' is unknown; did you mean 'batch_size'"),
        ({"steps": 0}, r"steps must be a whole number above 0"),
        ({"steps": "many"}, r"steps must be a whole number, got 'many'"),
        ({"config": mlp(), "images": vectors()}, r"leave config or data= out"),
        ({"config": mlp(), "images": vectors(), "data": None}, r"leave config or model= out"),
    ],
)
def test_wrong_objects_are_one_line(changes, message, tmp_path):
    with pytest.raises(aejax.InputError, match=message) as caught:
        fit(tmp_path / "run", **{**parts(), **changes})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run/config.json").exists()


def test_a_config_and_an_objective_are_one_too_many():
    with pytest.raises(aejax.InputError, match="leave config or objective= out"):
        aejax.fit(mlp(), vectors(), objective=aejax.Objective(Gaussian()))


PLAIN = """
import flax.linen as nn
import aejax


class Plain(nn.Module):
    features: int

    @nn.compact
    def __call__(self, h, *, keys=None, train=False):
        return aejax.Code(z=nn.Dense(self.features)(h))
"""


@pytest.mark.slow
def test_a_class_of_an_importable_module_is_recorded_by_its_name(tmp_path, monkeypatch):
    (tmp_path / "mine_too.py").write_text(PLAIN)
    monkeypatch.syspath_prepend(tmp_path)
    import mine_too

    model = model_of(mine_too.Plain(2))
    run = fit(tmp_path / "run", **parts(model=model, objective=aejax.Objective(SquaredError())))
    assert run.config.bottleneck.to_dict() == {"name": "mine_too:Plain", "features": 2}
    with pytest.raises(aejax.InputError, match="trust=\\['mine_too'\\]"):
        aejax.load_run(tmp_path / "run")
    loaded = aejax.load_run(tmp_path / "run", trust=["mine_too"])
    np.testing.assert_array_equal(loaded.encode(vectors()), run.encode(vectors()))
    sys.modules.pop("mine_too")


@pytest.mark.slow
def test_statistics_of_the_batch_are_those_of_all_devices(tmp_path):
    model = model_of(models.GaussianBottleneck(2), models.MLPEncoder((5,), normalisation="batch"))
    given = parts(model=model, objective=aejax.Objective(SquaredError(), {"kl": 0.5}), optimizer=optax.sgd(1e-2))
    one, four = (fit(**given, devices=jax.devices()[:n]).variables for n in (1, 4))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), one, four)


@pytest.mark.slow
def test_a_pre_encoder_bias_starts_at_the_mean():
    config = config_of("topk")
    config.update(QUICK)
    x = np.float32(vectors(features=3) + 5)
    config.data.name = "plane"
    named = aejax.fit(config, x, devices=one_device(), quiet=True)
    made = build_parts(named.config, Spec((3,)))
    assert made.model.pre_bias
    run = fit(data=x, model=made.model, objective=made.objective, optimizer=made.optimizer)
    assert_trees_equal(run.variables, named.variables)
