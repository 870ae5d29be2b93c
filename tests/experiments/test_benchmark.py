"""The benchmark against peers: its arithmetic, and that it refuses what is not the same work."""

import dataclasses
import functools
import importlib.util
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import MEANT, command

import aejax
from aejax.data import Spec
from aejax.models import build
from aejax.training.step import init, train_step
from aejax.training.task import make_task
from experiments import machine
from experiments.benchmark import contenders, contest, profile, report, works
from experiments.benchmark.contenders import CONTENDERS, Contender, Given, own

WIDTHS = {"mlp": (6, 5), "vae": (6,), "conv": (4, 6), "vq_vae": (4, 8)}


def tiny(name):
    """The work with a narrow model, on few small images."""
    work = works.WORKS[name]
    config, model = work.config(), work.model
    for part, widths in ((config.encoder, WIDTHS[model]), (config.decoder, WIDTHS[model][::-1])):
        part.features = widths
    config.bottleneck.features = 3
    if model == "vq_vae":
        config.bottleneck.codes = 5
    channels = 3 if model == "vq_vae" else 1
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, channels), np.uint8)
    return dataclasses.replace(work, config=lambda: config, images=lambda: images, batch=8, steps=2)


def checked(contender):
    return {"parameters": contender.parameters, **contender.check()}


def moved(given, amount=0.1):
    """With no weight where it is initialised: not at zero, where errors in its use would not be seen."""
    rng = np.random.default_rng(0)
    weights = {n: w + rng.uniform(0, amount, w.shape).astype(w.dtype) for n, w in given.weights.items()}
    return dataclasses.replace(given, weights=weights)


def test_the_ratio_is_the_median_of_the_rounds_ratios_and_the_best_variant_counts():
    measured = {  # images a second: aejax 100, 50, 20; eager 50, 50, 4; compiled 80, 20, 10; huge pages 1000
        "aejax": {"seconds": [1, 2, 5], "images": [100] * 3, "others": [0.0] * 3, "peak_gib": 1.0},
        "pytorch, eager": {"seconds": [2, 2, 25], "images": [100] * 3, "others": [0.0] * 3, "peak_gib": 2.0},
        "pytorch, compiled": {"seconds": [0.5, 2, 4], "images": [40] * 3, "others": [0.0] * 3, "peak_gib": 3.0},
        "pytorch, huge pages": {"seconds": [0.1] * 3, "images": [100] * 3, "others": [0.0] * 3, "peak_gib": 4.0},
        "keras": {"seconds": [4, 4, 4], "images": [100] * 3, "others": [0.0, 4.0, 0.0], "peak_gib": 5.0},
    }
    found = report.summary(works.WORKS["conv"], measured, 2)
    assert found["ratios"] == {
        "pytorch, eager": 2.0,  # of 2, 1, 5
        "pytorch, compiled": 2.0,  # of 1.25, 2.5, 2
        "pytorch, huge pages": 0.05,
        "keras": 2.0,  # of 4, 2, 0.8
    }
    assert found["contenders"]["aejax"]["images_per_second"] == {"median": 50, "min": 20, "max": 100}
    measured["pytorch, compiled"]["seconds"] = [0.2, 0.8, 1.0]  # 200, 50, 40: ratios 0.5, 1, 0.5
    found = report.summary(works.WORKS["conv"], measured, 2)
    assert found["peers"]["pytorch"] == {"best": "pytorch, compiled", "ratio": 0.5, "goal": 1.0, "reached": False}
    assert found["peers"]["keras"] == {"best": "keras", "ratio": 2.0, "goal": 1.0, "reached": True}
    usual = report.summary(works.WORKS["importance_weighted"], measured, 2)  # its goal is set against one variant
    assert usual["peers"]["pytorch"] == {"best": "pytorch, eager", "ratio": 2.0, "goal": 2.0, "reached": True}
    on = {"cpu": "a CPU", "device": "cpu", "cores": 8, "python": "3", "torch": "2", "date": "2026-01-01"}
    lines = report.table({"conv": {**found, "machine": on}}).splitlines()
    assert lines[2] == "| (c) train the convolutional autoencoder `conv` | aejax | 50 [20 - 100] | 1.00 |  |  |"
    assert "|  | pytorch, eager | 50 [4 - 50] | 2.00 | 2.00 |  |" in lines
    assert "|  | pytorch, compiled | 50 [40 - 200] | 3.00 | 0.50 | 1: **not reached** |" in lines
    assert "|  | pytorch, huge pages | 1,000 [1,000 - 1,000] | 4.00 | (0.05) |  |" in lines
    assert "|  | keras | 25 [25 - 25] | 5.00 | 2.00 | 1: reached |" in lines
    assert lines[-3] == "(c): 2026-01-01, 2 cores of a CPU (cpu), python 3, torch 2."
    # 4 seconds of two cores' 2 x (8 + 29 + 2 + 0.3 + 12)
    assert lines[-1].endswith(
        "during (c) train the convolutional autoencoder `conv` other programs took 4% of the cores."
    )
    found = report.summary(works.WORKS["conv"], measured | {"keras": measured["pytorch, eager"]}, 2)
    assert "quiet" not in report.table({"conv": {**found, "machine": on}})


def test_what_a_goal_would_take_beside_what_the_machine_does():
    of = {"seconds": [1.0], "images": [10], "others": [0.0], "peak_gib": 1.0}
    found = report.summary(works.WORKS["mlp"], {"aejax": of, "pytorch, eager": {**of, "images": [13]}}, 2)
    profiled = {"matrix_gflop_per_second": 100, "mlp": {"gflop": 50.0, "batch_size": 5}}
    told = "GFLOP/s that a goal would take, of 100 measured: (a) 130 (1 times pytorch)."
    assert report.bounds({"mlp": found}, profiled).strip() == told
    assert report.bounds({"mlp": found}, {}) == ""
    found = report.summary(works.WORKS["mlp"], {"aejax": of, "pytorch, eager": {**of, "images": [5]}}, 2)
    assert report.bounds({"mlp": found}, profiled) == ""


def test_processors_of_one_name_are_told_apart(monkeypatch):
    lines = ["processor\t: 0", "cpu family\t: 25", "model\t\t: 17", "model name\t: AMD EPYC", "stepping : 1"]
    monkeypatch.setattr(machine, "cpuinfo", lambda: lines)
    assert machine.machine()["cpu"] == "AMD EPYC (family 25, model 17)"
    monkeypatch.setattr(machine, "cpuinfo", list)
    assert machine.machine()["cpu"] == platform.machine()


def test_each_row_has_its_machine():
    of = {"seconds": [1.0], "images": [10], "others": [0.0], "peak_gib": 1.0}
    results = {}
    for name, date in (("mlp", "2026-01-01"), ("vae", "2026-02-02"), ("conv", "2026-01-01")):
        found = report.summary(works.WORKS[name], {"aejax": of, "pytorch, eager": of}, 2)
        results[name] = {"machine": {"cpu": "a CPU", "device": "cpu", "date": date}, **found}
    notes = report.table(results).splitlines()[-3:]
    assert notes[0].startswith("(a), (c): 2026-01-01, 2 cores of a CPU")
    assert notes[2].startswith("(b): 2026-02-02")


def test_a_run_of_some_works_leaves_the_others_figures(tmp_path):
    main = command("benchmark.__main__", "experiments")
    of = {"seconds": [1.0], "images": [10], "others": [0.0] * 3, "peak_gib": 1.0}
    entries = {}
    for name, cores in (("vae", 1), ("mlp", 1), ("vae", 2)):
        found = report.summary(works.WORKS[name], {"aejax": of, "pytorch, eager": of}, cores)
        entries[name] = {"machine": {"cpu": "", "device": "", "cores": 8, "date": ""}, **found}
        main._add(tmp_path, name, entries[name])
    written = json.loads((tmp_path / "speed.json").read_text())
    assert list(written) == ["mlp", "vae"]
    assert written == json.loads(json.dumps(entries))
    assert (tmp_path / "speed.md").read_text().startswith("# aejax compared with its peers")


@pytest.mark.slow
@pytest.mark.filterwarnings(MEANT)
def test_a_profile_counts_the_operations_of_a_step():
    found = profile.of_step(tiny("mlp"), 1)
    kernels = 64 * 6 + 6 * 5 + 5 * 3 + 3 * 5 + 5 * 6 + 6 * 64
    assert found["gflop"] * 1e9 > 3 * 2 * kernels * 8 * 0.8  # no gradient of the images
    assert found["step_ms"] > 0
    assert found["update_ms"] > 0
    assert 0 < found["products_ms"] < 10 * found["step_ms"]  # a product that XLA hoists out of the loop takes no time
    assert profile.matrix_rate(1, 256) > 0
    assert profile.copy_rate(1, 1_000_000) > 0


@pytest.mark.slow
def test_the_residual_step_holds_the_products_that_make_it_fast():
    """A convolution or a sum that falls back to its plain form is seen here before it is seen in a table."""
    config, spec, key = works.ON_CPU["vq_vae"].config(), Spec((32, 32, 3)), jax.random.key(0)
    task = make_task(config, spec)
    state = jax.eval_shape(lambda: init(task, spec.shape, key))
    batch = {"x": np.zeros((4, *spec.shape), np.uint8), "index": np.arange(4, dtype=np.int32)}
    program = jax.jit(functools.partial(train_step, task=task)).lower(state, batch, key).as_text()
    strided, blocks, others = 2, 4, 3  # downsampling; residual blocks of two; the code's and two that upsample
    convolutions = strided + 2 * blocks + others
    # Forward, the gradient of every input but the image, and the kernels' where the stride is not 1.
    assert program.count("stablehlo.convolution") == convolutions + (convolutions - 1) + strided
    kernels = 2 * blocks + others
    quantizer = 3 + 2  # a dense layer with its gradients; distances and the sums of each code
    assert program.count("stablehlo.dot_general") == kernels + quantizer


def test_works_and_contenders_fit_each_other():
    for name, work in works.WORKS.items():
        assert name == work.name
        assert work.contenders[0] == "aejax"
        assert set(work.contenders) <= set(CONTENDERS)
        assert set(work.goals) <= {part for name in work.contenders for part in (name, name.partition(", ")[0])}


@pytest.mark.slow
def test_a_wrong_weight_and_another_learning_rate_are_refused():
    work = tiny("mlp")
    given = contest.given_for(work)
    ours = checked(own.train(work, given))
    assert ours["parameters"] == (64 * 6 + 6) + (6 * 5 + 5) + (5 * 3 + 3) + (3 * 5 + 5) + (5 * 6 + 6) + (6 * 64 + 64)
    contest.verify(work, "a twin", checked(own.train(work, given)), ours)
    bias = "params/encoder/dense_1/bias"
    wrong = dataclasses.replace(given, weights={**given.weights, bias: given.weights[bias] + 0.1})
    check = checked(own.train(work, wrong))
    with pytest.raises(aejax.InputError, match="mlp: a twin does other work than aejax, its first loss is"):
        contest.verify(work, "a twin", check, ours)
    other = work.config().copy_and_resolve_references()
    other.optim.lr = 2e-3
    check = checked(own.train(dataclasses.replace(work, config=lambda: other), given))
    with pytest.raises(aejax.InputError, match="its last loss is"):
        contest.verify(work, "a twin", check, ours)
    with pytest.raises(aejax.InputError, match="its parameters is 948"):
        contest.verify(work, "a twin", {**ours, "parameters": 948}, ours)
    with pytest.raises(aejax.InputError, match="its first loss is nan"):
        contest.verify(work, "a twin", {**ours, "first loss": float("nan")}, ours)


@pytest.mark.filterwarnings(MEANT)
@pytest.mark.parametrize("name", ["mlp", "conv", "vq_vae"])
def test_pytorch_decodes_what_aejax_decodes(name):
    torch = pytest.importorskip("torch")
    models, pytorch = (
        importlib.import_module(f"experiments.benchmark.contenders.{file}") for file in ("torch_models", "pytorch")
    )
    work = tiny(name)
    given = moved(contest.given_for(work))
    model = pytorch.MODELS[name](given)
    models.load(model, given)
    x = given.floats()
    with torch.no_grad():
        decoded = model.decoded(torch.from_numpy(x).movedim(-1, 1))
    decoded = decoded[0] if name == "vq_vae" else decoded
    decoded = decoded.movedim(1, -1) if decoded.ndim == 4 else decoded.reshape(x.shape)
    expected = build(work.config(), x.shape[1:]).apply(own._variables(given), x).decoded
    np.testing.assert_allclose(decoded.numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("bfloat16")
@pytest.mark.filterwarnings(MEANT)
@pytest.mark.parametrize(
    ("name", "file", "package", "variant"),
    [
        *((name, "pytorch", "torch", "eager") for name in WIDTHS),
        *((name, "pytorch", "torch", "plain bfloat16") for name in ("mlp_256", "vae_128", "conv_256", "vq_vae_64")),
        ("vae", "with_pythae", "pythae", ""),
        ("vae", "flax_example", "flax", ""),
        ("conv", "with_keras", "keras", ""),
    ],
)
def test_peers_do_the_work_of_aejax(name, file, package, variant, monkeypatch, tmp_path):
    """Over 20 steps, and not from other weights. Posteriors are narrow, so that their noise does not tell."""
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.chdir(tmp_path)
    pytest.importorskip(package)
    train = importlib.import_module(f"experiments.benchmark.contenders.{file}").train
    work = tiny(name)
    given = contest.given_for(work)
    if work.model == "vae":
        narrow = {n: np.full_like(w, -8.0 * n.endswith("bias")) for n, w in given.weights.items() if "log_std" in n}
        given = dataclasses.replace(given, weights={**given.weights, **narrow})
        first = 1e-3 if "bfloat16" in variant else 1e-4  # PyTorch's mixed precision takes the posterior's layers, too
        work = dataclasses.replace(work, tolerance={"first loss": first, "last loss": 5e-3})
    theirs, ours = (made(work, given, variant) for made in (train, own.train))
    expected = checked(ours)
    contest.verify(work, file, checked(theirs), expected)
    assert theirs.turn() == ours.turn() == 16
    wrong = dataclasses.replace(given, weights={n: w * 1.2 for n, w in given.weights.items()})
    check = checked(train(work, wrong, variant))
    with pytest.raises(aejax.InputError, match="its first loss is"):
        contest.verify(work, file, check, expected)


def test_pythae_encodes_and_weighs_as_aejax():
    pytest.importorskip("pythae")
    theirs = importlib.import_module("experiments.benchmark.contenders.with_pythae")
    given = moved(contest.given_for(tiny("vae")), 0.02)
    for name in ("encode", "likelihood"):
        work = dataclasses.replace(tiny("vae"), name=name, tolerance=works.WORKS[name].tolerance, batch=100)
        ours, other = (getattr(module, name)(work, given, "") for module in (own, theirs))
        contest.verify(work, "pythae", other.check(), ours.check())
        assert ours.turn() == other.turn() == 40


def test_the_bare_forward_gives_the_codes_of_encode():
    given = contest.given_for(tiny("vae"))
    bare = own.bare_forward(tiny("vae"), given, "16")
    assert bare.check() == pytest.approx(own.encode(tiny("vae"), given).check())
    assert bare.turn() == 40


@pytest.mark.slow
def test_weights_and_rows_survive_the_file(tmp_path):
    given = contest.given_for(tiny("vq_vae"))
    given.write(tmp_path / "given.npz")
    read = Given.read(tmp_path / "given.npz")
    jax.tree.map(np.testing.assert_array_equal, dataclasses.asdict(read), dataclasses.asdict(given))
    assert read.rows.shape == (20, 8)
    assert "codebook/bottleneck/codebook/sums" in read.weights


def test_contenders_whose_packages_are_missing_are_left_out_in_one_line(monkeypatch, capsys):
    needs = {name: CONTENDERS[name].needs for name in works.WORKS["vae"].contenders}
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: package not in ("torch", "pythae"))
    assert contest.present("vae", needs) == ["aejax", "flax", "flax, huge pages"]
    assert capsys.readouterr().err == "vae: left out for want of pythae, torch; pip install -e '.[bench]'\n"
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: True)
    assert contest.present("vae", needs) == list(works.WORKS["vae"].contenders)
    assert capsys.readouterr().err == ""


def in_this_process(made, monkeypatch):
    monkeypatch.setattr(contenders, "build", lambda *who: made)


@pytest.mark.slow
def test_a_process_of_its_own_answers_for_a_contender(tmp_path):
    """The one that is built at its first question and kept for the others."""
    given = contest.given_for(tiny("vae"))
    given.write(tmp_path / "given.npz")
    who = ("vae", "flax", tmp_path / "given.npz")
    with machine.fresh_process({"GLIBC_TUNABLES": "", "JAX_PLATFORMS": "cpu"}) as process:
        answers = [contest.ask(process, "a", question, *who) for question in (contenders.check, contenders.turn)]
        assert answers[0]["parameters"] == sum(w.size for w in given.parameters.values())
        assert answers[1]["images"] == 20 * 8
        assert process.submit(os.getpid).result() != os.getpid()


def test_a_turn_is_timed(monkeypatch):
    in_this_process(Contender(7, lambda: {"loss": 0.5}, lambda: time.sleep(0.1) or 5), monkeypatch)
    assert contenders.check() == {"parameters": 7, "loss": 0.5}
    found = contenders.turn()
    assert found["images"] == 5
    assert 0.1 <= found["seconds"] < 10
    assert 0.001 < contenders.peak()["peak_gib"] < 10


def test_what_others_take_of_the_cores_is_seen(monkeypatch):
    in_this_process(Contender(1, dict, lambda: time.sleep(0.5) or 1), monkeypatch)
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        time.sleep(0.2)
        others = contenders.turn()["others"]
        busy.kill()
    assert others > 0.2


def test_a_contender_that_fails_or_dies_is_named():
    with machine.fresh_process({"SOME_VARIABLE": "some value"}) as process:
        assert process.submit(os.getenv, "SOME_VARIABLE").result() == "some value"
        assert "SOME_VARIABLE" not in os.environ
        with pytest.raises(aejax.InputError, match="a work: a contender failed: ValueError: invalid literal"):
            contest.ask(process, "a work: a contender", int, "no number")
        with pytest.raises(aejax.InputError, match="a work: a contender failed: BrokenProcessPool"):
            contest.ask(process, "a work: a contender", os._exit, 1)


@pytest.mark.slow
def test_a_process_ends_with_the_one_that_started_it():
    """Even if that is killed."""
    code = """
import os, time
from experiments.machine import fresh_process
with fresh_process({}) as process:
    print(process.submit(os.getpid).result(), flush=True)
    time.sleep(1000)
"""
    with subprocess.Popen([sys.executable, "-W", "ignore", "-c", code], stdout=subprocess.PIPE) as parent:
        command_line = Path("/proc", parent.stdout.readline().decode().strip(), "cmdline")
        assert command_line.read_bytes()
        parent.kill()
    deadline = time.monotonic() + 60
    while command_line.exists() and command_line.read_bytes() and time.monotonic() < deadline:  # a zombie has none
        time.sleep(0.05)
    assert time.monotonic() < deadline


def test_a_contender_is_built_once_and_not_before_the_first_question(monkeypatch, tmp_path):
    built = []
    made = Contender(1, dict, lambda: 3)
    monkeypatch.setattr(own, "train", lambda *arguments: built.append(arguments) or made)
    monkeypatch.setattr(Given, "read", lambda file: file)
    contenders.build.cache_clear()
    assert [contenders.turn("mlp", "aejax", tmp_path)["images"] for _ in range(2)] == [3, 3]
    assert built == [(works.WORKS["mlp"], tmp_path, "")]
    contenders.build.cache_clear()
