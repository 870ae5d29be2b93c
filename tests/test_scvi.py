"""The config `scvi` beside scvi-tools: the same loss and gradients of a batch, for the same parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import config_of

from aejax.data import Spec
from aejax.objectives import Context
from aejax.training.task import make_task

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # those of scvi-tools and of what it imports
]
GENES, CELLS = 40, 24


def copy(theirs):
    """The variables of `configs/scvi.py` with the parameters of scvi-tools' VAE."""

    def layer(dense, norm):
        array = lambda t: jnp.asarray(t.detach().numpy())  # noqa: E731
        params = {"dense_0": of_dense(dense), "norm_0": {"batch": {"scale": array(norm.weight)}}}
        params["norm_0"]["batch"]["bias"] = array(norm.bias)
        stats = {"norm_0": {"batch": {"mean": array(norm.running_mean), "var": array(norm.running_var)}}}
        return params, stats

    def of_dense(*dense, factor=1.0):
        kernel = np.concatenate([d.weight.detach().numpy() for d in dense]).T
        return {"kernel": factor * kernel, "bias": factor * np.concatenate([d.bias.detach().numpy() for d in dense])}

    encoder, of_encoder = layer(*theirs.z_encoder.encoder.fc_layers[0][:2])
    decoder, of_decoder = layer(*theirs.decoder.px_decoder.fc_layers[0][:2])
    decoder["dense_1"] = of_dense(theirs.decoder.px_scale_decoder[0], theirs.decoder.px_dropout_decoder)
    mean, log_variance = theirs.z_encoder.mean_encoder, theirs.z_encoder.var_encoder
    bottleneck = {"mean": of_dense(mean), "log_std": of_dense(log_variance, factor=0.5)}
    params = {"encoder": encoder, "decoder": decoder, "bottleneck": bottleneck}
    params["log_scale"] = jnp.asarray(theirs.px_r.detach().numpy())
    return {"params": params, "batch_stats": {"encoder": of_encoder, "decoder": of_decoder}}


def test_loss_and_gradients_are_those_of_scvi_tools():
    """At the posterior's mean and the averages of evaluation, as the two draw other noise."""
    scvi, torch = pytest.importorskip("scvi"), pytest.importorskip("torch")
    torch.manual_seed(0)
    theirs = scvi.module.VAE(GENES, n_batch=3).eval()
    for name, buffer in theirs.named_buffers():
        if "running" in name:
            buffer.copy_(0.5 + torch.rand_like(buffer))
    rng = np.random.default_rng(0)
    x, batch = rng.poisson(rng.gamma(0.5, 6.0, (CELLS, GENES))).astype(np.float32), np.arange(CELLS) % 3
    tensors = {"X": torch.tensor(x), "batch": torch.tensor(batch)[:, None], "labels": torch.zeros(CELLS, 1)}
    coded = theirs.inference(**theirs._get_inference_input(tensors))
    coded["z"] = coded["qz"].loc
    made = theirs.generative(**theirs._get_generative_input(tensors, coded))
    expected = theirs.loss(tensors, coded, made, kl_weight=0.3)
    expected.loss.backward()

    config = config_of("scvi", "")
    config.objective.weights.kl = 0.3
    task = make_task(config, Spec((GENES,)))
    variables = copy(theirs)

    def loss(params):
        given = {**variables, "params": params}
        output = task.model.apply(given, x, label=jnp.asarray(batch))
        keys = jax.random.split(jax.random.key(0), CELLS)
        terms = task.objective(Context(task.model.apply, given, jnp.asarray(x), output, keys, label=jnp.asarray(batch)))
        return terms["loss"].mean(), terms

    grads, terms = jax.grad(loss, has_aux=True)(variables["params"])
    np.testing.assert_allclose(terms["loss"].mean(), expected.loss.item(), rtol=1e-5)
    (reconstruction,), kl = expected.reconstruction_loss.values(), expected.kl_local["kl_divergence_z"]
    np.testing.assert_allclose(terms["reconstruction"], reconstruction.detach(), rtol=1e-5)
    np.testing.assert_allclose(terms["kl"], kl.detach(), rtol=1e-4, atol=1e-4)  # theirs adds 1e-4 to each variance
    pairs = [
        (grads["log_scale"], theirs.px_r),
        (grads["encoder"]["dense_0"]["kernel"].T, theirs.z_encoder.encoder.fc_layers[0][0].weight),
        (grads["decoder"]["dense_0"]["kernel"].T, theirs.decoder.px_decoder.fc_layers[0][0].weight),
        (grads["decoder"]["dense_1"]["kernel"].T[GENES:], theirs.decoder.px_dropout_decoder.weight),
        (grads["bottleneck"]["mean"]["kernel"].T, theirs.z_encoder.mean_encoder.weight),
    ]
    for ours, parameter in pairs:
        g = parameter.grad.numpy()
        np.testing.assert_allclose(ours, g, rtol=1e-3, atol=1e-3 * np.abs(g).max())  # likewise
