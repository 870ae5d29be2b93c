"""Forward, loss and gradients of each sparse autoencoder against SAELens 6.54, on copied weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import example_keys

from aejax import config as config_lib
from aejax import models
from aejax.config import module
from aejax.objectives import Context, Objective, SquaredError

torch = pytest.importorskip("torch")
sae_lens = pytest.importorskip("sae_lens", minversion="6.54")
saes = pytest.importorskip("sae_lens.saes.sae")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # SAELens' packages warn of each other

# So many units that products read only those that are kept.
SIZE, UNITS, K, BATCH = 12, 200, 3, 16
DEAD = np.arange(UNITS) % 5 == 0
NORMS = {"decoder_norms": True}
# By case: SAELens' class, its options, our bottleneck, weights and options of terms.
CASES = {
    "standard": ("standard", {"l1_coefficient": 0.3}, module("relu"), {"l1": 0.3}, {"l1": NORMS}),
    "gated": (
        "gated",
        {"l1_coefficient": 0.3},
        module("gated"),
        {"gate_l1": 0.3, "gate_reconstruction": 1.0},
        {"gate_l1": NORMS},
    ),
    "topk": ("topk", {"k": K, "rescale_acts_by_decoder_norm": False}, module("topk", k=K), {}, {}),
    "batchtopk": ("batchtopk", {"k": K, "rescale_acts_by_decoder_norm": False}, module("batch_topk", k=K), {}, {}),
    "matryoshka": (
        "matryoshka_batchtopk",
        {"k": K, "rescale_acts_by_decoder_norm": False, "matryoshka_widths": [5, 20, UNITS]},
        module("batch_topk", k=K),
        {"prefixes": 1.0},
        {"prefixes": {"widths": (5, 20)}},
    ),
    "jumprelu, step": ("jumprelu", {"l0_coefficient": 0.3}, module("jumprelu", bandwidth=0.05), {"l0": 0.3}, {}),
    "jumprelu, target": (
        "jumprelu",
        {"l0_coefficient": 0.3, "jumprelu_sparsity_loss_mode": "quadratic", "target_l0": 4.0},
        module("jumprelu", bandwidth=0.05),
        {"l0_target": 0.3 * 2 * 4.0},
        {"l0_target": {"target": 4.0}},
    ),
    "jumprelu, tanh": (
        "jumprelu",
        {
            "l0_coefficient": 0.3,
            "jumprelu_sparsity_loss_mode": "tanh",
            "jumprelu_ste_to_input": True,
            "jumprelu_bandwidth": 0.8,
            "pre_act_loss_coefficient": 0.02,
        },
        module("jumprelu", bandwidth=0.8, to_input=True, dead_after=1),
        {"tanh_sparsity": 0.3, "pre_activation": 0.02},
        {},
    ),
    "matching pursuit": (
        "matching_pursuit",
        {"max_iterations": K, "residual_threshold": 0.0, "stop_on_duplicate_support": False, "decoder_init_norm": 1.0},
        module("matching_pursuit", k=K),
        {},
        {},
    ),
}


def theirs(architecture, options):
    """SAELens' model for training, with random weights."""
    from sae_lens.registry import get_sae_training_class

    cls, config = get_sae_training_class(architecture)
    model = cls(config(d_in=SIZE, d_sae=UNITS, **options))
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for name, value in model.named_parameters():
            scale = 0.3 if value.ndim > 1 else 0.1
            values = 0.2 + 0.05 * rng.random(value.shape) if name == "threshold" else rng.normal(0, scale, value.shape)
            value.copy_(torch.tensor(values))
    return model


NAMES = {
    "W_enc": "bottleneck/dense/kernel",
    "b_enc": "bottleneck/dense/bias",
    "b_gate": "bottleneck/dense/bias",
    "b_mag": "bottleneck/bias",
    "r_mag": "bottleneck/log_scale",
    "threshold": "bottleneck/log_threshold",
    "W_dec": "decoder/dense_0/kernel",
    "b_dec": "decoder/dense_0/bias",
}


@pytest.mark.parametrize("name", CASES)
def test_forward_loss_and_gradients_are_those_of_saelens(name):
    architecture, options, bottleneck, weights, arguments = CASES[name]
    reference = theirs(architecture, options)
    x = np.random.default_rng(1).normal(size=(BATCH, SIZE)).astype(np.float32)
    step = saes.TrainStepInput(
        sae_in=torch.tensor(x),
        coefficients={"l1": 0.3, "l0": 0.3},
        dead_neuron_mask=torch.tensor(DEAD) if "tanh" in name else None,
        n_training_steps=0,
        is_logging_step=False,
    )
    expected = reference.training_forward_pass(step)
    expected.loss.backward()
    given = {NAMES[key]: value for key, value in reference.named_parameters()}
    pursuit = architecture == "matching_pursuit"
    flat = {path: value.detach().numpy() for path, value in given.items()}
    if pursuit:
        flat["bottleneck/dense/kernel"] = flat.pop("decoder/dense_0/kernel").T
    threshold = flat.get("bottleneck/log_threshold")
    if threshold is not None:
        flat["bottleneck/log_threshold"] = np.log(threshold)

    config = config_lib.default()
    config.bottleneck = config_lib.module(**{**bottleneck, "features": UNITS})
    config.decoder = module("dictionary", tied=pursuit)
    model = models.build(config, (SIZE,))
    assert model.pre_bias
    variables = model.init(jax.random.key(0), x)
    from aejax.training import paths

    assert paths.flatten(variables["params"]).keys() == flat.keys()
    state = {key: value for key, value in variables.items() if key != "params"}
    if "tanh" in name:  # what SAELens calls dead
        state["sparse"]["bottleneck"]["idle"] = jnp.asarray(100 * DEAD, jnp.int32)
    objective = Objective(SquaredError(), weights, options=arguments)

    def loss(flat):
        given = {"params": paths.nest(flat), **state}
        train = "tanh" not in name  # else a dead unit that is active would live
        output, _ = model.apply(given, x, train=train, mutable=["sparse"])
        c = Context(model.apply, given, jnp.asarray(x), output, example_keys(BATCH))
        return objective(c)["loss"].mean(), output

    (value, output), grads = jax.value_and_grad(loss, has_aux=True)(flat)
    np.testing.assert_allclose(output.code.z, expected.feature_acts.detach(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(output.decoded, expected.sae_out.detach(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(value, expected.loss.detach(), rtol=1e-5)
    for path, tensor in given.items():
        if architecture == "gated" and path.startswith("decoder/"):
            continue  # SAELens trains the decoder by the auxiliary loss, too, which the paper does not
        expected_grad = tensor.grad.numpy()
        if pursuit and path == "decoder/dense_0/kernel":
            path, expected_grad = "bottleneck/dense/kernel", expected_grad.T
        if path == "bottleneck/log_threshold":
            expected_grad = expected_grad * threshold
        np.testing.assert_allclose(grads[path], expected_grad, rtol=1e-4, atol=2e-5, err_msg=path)
