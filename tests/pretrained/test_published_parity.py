"""Published models compute what diffusers computes, from files in any of the layouts that they come in."""

import json

import jax
import numpy as np
import pytest
from cases import CASES, FOLDER, SHAPES, draw, inputs
from conftest import mostly_slow

import aejax

st = pytest.importorskip("safetensors.numpy")

REFERENCES = {case: dict(np.load(FOLDER / f"{case}.npz")) for case in CASES}
ABOUT = {case: json.loads(str(reference.pop("about"))) for case, reference in REFERENCES.items()}


def publish(case, folder, tensors=None, **settings):
    """Writes the case's folder as diffusers does."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(ABOUT[case]["config"] | settings))
    tensors = draw(ABOUT[case]["shapes"]) if tensors is None else tensors
    st.save_file(tensors, folder / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    return folder


def assert_close(a, b, tolerance=2e-5):
    """Within the tolerance, in standard deviations of what is expected."""
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * b.std())


def code_and_decoded(run, x, z):
    """The code of images and what latents are decoded to, by one program."""
    apply = run.model.apply
    program = jax.jit(lambda v, x, z: (apply(v, x, method="encode"), apply(v, z, method="decode")))
    return jax.device_get(program(run.variables, x, z))


def assert_computes(run, case, shape, expected):
    x, z = inputs(case, shape)
    code, decoded = code_and_decoded(run, x, z)
    if "indices" in expected:
        np.testing.assert_array_equal(code.indices, expected["indices"])
    if "log_variance" in expected:
        assert_close(2 * code.posterior.log_std, expected["log_variance"])
    assert_close(code.z, expected["mean"])
    assert_close(decoded, expected["decoded"])


QUICK = [("kl_16_channels", 0), ("vq_attention", 0), ("tiny", 0), ("dc", 0)]


@pytest.mark.parametrize(("case", "shape"), mostly_slow([(c, n) for c in CASES for n in range(3)], *QUICK))
def test_it_computes_what_diffusers_computes(case, shape, tmp_path):
    run = aejax.load_pretrained(publish(case, tmp_path), size=SHAPES[shape][1:])
    suffix = "_" + "x".join(map(str, SHAPES[shape]))
    expected = {key.removesuffix(suffix): a for key, a in REFERENCES[case].items() if key.endswith(suffix)}
    assert len(expected) >= 2
    assert_computes(run, case, SHAPES[shape], expected)
