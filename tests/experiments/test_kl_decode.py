"""The benchmark of decoding latents: contenders that decode the same weights to the same image, and its goals."""

import contextlib

import numpy as np
import pytest

import aejax
from experiments.benchmark import kl_decode

pytest.importorskip("safetensors")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = str(tmp_path_factory.mktemp("weights"))
    assert kl_decode.write_weights(made, "tiny") == {"down": 2}
    return made


@pytest.fixture(scope="module")
def z():
    return np.random.default_rng(0).normal(size=(1, 8, 12, 4)).astype(np.float32)


def test_a_turn_times_the_decoding_of_the_given_latents(folder, z):
    run = aejax.load_pretrained(folder, 16)
    np.testing.assert_allclose(kl_decode.begin("aejax", folder, 16, z)["image"], run.decode(z), atol=1e-6)
    assert 0 < kl_decode.turn()["seconds"] < 60
    assert kl_decode.peak()["peak_gib"] > 0.05


@pytest.mark.slow
def test_diffusers_decodes_the_same(folder, z):
    pytest.importorskip("diffusers")
    ours, theirs = (kl_decode.begin(name, folder, 16, z)["image"] for name in ("aejax", "pytorch"))
    np.testing.assert_allclose(ours, theirs, atol=1e-4 * ours.std())


def test_the_faster_and_the_smaller_of_pytorchs_count(monkeypatch):
    """As processes would answer, of which the compiled one fails in the second case."""
    seconds = {"aejax": 1.0, "pytorch": 2.0, "pytorch, compiled": 1.5}
    peaks = {"aejax": 3.0, "pytorch": 2.0, "pytorch, compiled": 4.0}
    broken = False

    def ask(child, name, question, *arguments):
        if question is kl_decode.begin:
            if broken and name == "pytorch, compiled":
                raise aejax.InputError("no compiler")
            return {"image": np.arange(6.0)}
        return {"seconds": seconds[name]} if question is kl_decode.turn else {"peak_gib": peaks[name]}

    monkeypatch.setattr(kl_decode, "ask", ask)
    monkeypatch.setattr(kl_decode, "present", lambda work, needs: list(needs))
    monkeypatch.setattr(kl_decode, "fresh_process", contextlib.nullcontext)
    found = kl_decode._compare("", 16, 8, 2)
    assert (found["best"], found["times_as_fast"], found["memory"]) == ("pytorch, compiled", 1.5, 1.5)
    goals = kl_decode._set_goals("16x16", found)
    assert [(goal["value"], goal["reached"]) for goal in goals] == [(1.5, True), (1.5, False)]
    broken = True
    found = kl_decode._compare("", 16, 8, 2)
    assert (found["best"], found["times_as_fast"], found["left_out"]) == (
        "pytorch",
        2.0,
        {"pytorch, compiled": "no compiler"},
    )
    monkeypatch.setattr(kl_decode, "_TOLERANCE", -1)
    with pytest.raises(aejax.InputError, match="decodes to another image than aejax; nothing was timed"):
        kl_decode._compare("", 16, 8, 2)
