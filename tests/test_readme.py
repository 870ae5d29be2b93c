"""Figures, links, commands and code of the README and of the pages in docs/: none is wrong."""

import functools
import importlib
import importlib.util
import json
import re
import shutil
import statistics
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from conftest import config_of, one_device
from PIL import Image

import aejax
from aejax.cli.__main__ import COMMANDS
from experiments import families, reproduce
from experiments.benchmark import report
from experiments.benchmark.works import WORKS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in (*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md")))
}


def words(page: str) -> str:
    """Returns a page with single spaces, so that a sentence is found wherever its lines break."""
    return " ".join(PAGES[page].split())


def results(name):
    return json.loads((ROOT / "experiments/results" / name).read_text())


def sentence_on_peers(speed):
    names = (("mlp", "an MLP autoencoder"), ("vae", "an MLP VAE"), ("conv", "`conv`"), ("vq_vae", "a residual VQ-VAE"))
    return ", ".join(f"{what} {speed[name]['peers']['pytorch']['ratio']:.1f} times" for name, what in names)


def sentence_on_sparse_autoencoders(speed):
    ratios = {name: peer["ratio"] for name, peer in speed["sae"]["peers"].items()}
    pytorch, sae_lens = f"{ratios['pytorch']:.1f}", f"{ratios['sae_lens']:.1f}"
    times = f"trains {pytorch} times as fast as the best variant of PyTorch and {sae_lens} times as fast as SAELens"
    return f"A TopK sparse autoencoder of 16,384 units {times}"


def sentence_on_an_accelerator(speed):
    names = {"the MLP autoencoder": "mlp", "the VAE": "vae", "`conv`": "conv", "a residual VQ-VAE": "vq_vae"}
    pairs = []
    for what, name in names.items():
        usual, large = (e["peers"]["pytorch"]["ratio"] for work, e in speed.items() if WORKS[work].model == name)
        pairs.append(f"{what} {usual:.1f} and {large:.1f}")
    device = speed["conv_256"]["machine"]["device"]
    return f"On one {device} in bfloat16, at the usual batch and at one of thousands: {', '.join(pairs)} times"


def sentence_on_ceilings(profile, smallest_batch=0):
    steps = [of for name, of in profile.items() if name in WORKS and of["batch_size"] > smallest_batch]
    shares = ([step[f"share_of_{rate}_rate"] for step in steps] for rate in ("matrix", "copy"))
    matrix, copy = (f"{min(found):.0%} to {max(found):.0%}" for found in shares)
    found = f"{matrix} of the measured rate of matrix products"
    return f"{found} and {copy} of that of copies" if smallest_batch else found  # on CPU caches hold much


def test_figures_are_those_of_the_committed_results():
    assert reproduce.table(results("reconstruction.json")) in README
    performance = words("docs/performance.md")
    conv, mlp = (results("loop.json")[name]["loop_over_bare"] for name in ("conv", "mlp"))
    for page in (words("README.md"), performance):
        assert f"{conv:.0%} for `conv` and {mlp:.0%} for the MLP of its own bare jitted step's images" in page
        assert sentence_on_peers(results("speed.json")) in page
        assert sentence_on_sparse_autoencoders(results("speed.json")) in page
    evaluation = statistics.median(results("evaluation.json")["evaluate"]["seconds"])
    assert f"the whole evaluation of this VAE takes {evaluation:.0f} s" in performance
    assert ("in no more memory than any peer" in performance) == (report.memory(results("speed.json")) == "")
    assert sentence_on_an_accelerator(results("gpu/speed.json")) in performance
    assert sentence_on_ceilings(results("profile.json")) in performance
    assert sentence_on_ceilings(results("gpu/profile.json"), 1_000) in performance
    conv, mlp = (results("gpu/loop.json")[name]["loop_over_bare"] for name in ("conv", "mlp"))
    assert f"reaches {mlp:.0%} of the bare step with one every 0.3 s of training, {conv:.0%} with one" in performance
    gain = results("together.json")["commands"]["times_as_fast"]
    assert f"trains eight seeds of a narrow VAE {gain:.1f} times as fast" in words("docs/how-to/ablate.md")
    ours, plain = (results("perceptual.json")[name] for name in ("perceptual", "squared error"))
    lpips, psnr = (
        f"{ours[key]:{form}} instead of {plain[key]:{form}}" for key, form in (("lpips_vgg", ".3f"), ("psnr", ".1f"))
    )
    assert f"LPIPS {lpips} and {psnr} dB on held-out crops" in words("docs/families.md")
    whole, tile = (results("tiles.json")["bytes_of_decoding"][side] for side in ("2048", "256"))
    needs = f"{whole / 1e9:.1f} GB for an image of 2048x2048 pixels, and {tile / 1e6:.0f} MB for a tile of 256x256."
    assert needs in words("docs/how-to/pretrained.md")
    start = results("startup.json")
    assert f"first step {start['cold']:.1f} s after it is given, {start['warm']:.1f} s" in performance


def test_the_table_of_families_is_that_of_the_committed_figures():
    folder = ROOT / "experiments/results"
    assert (folder / "families.md").read_text() == families.INTRODUCTION + families.table(folder / "families") + "\n"


@pytest.mark.parametrize("experiment", [e for e in families.EXPERIMENTS if ":" not in e or e.endswith(":mnist")])
def test_docstrings_say_the_time_and_the_result_that_were_measured(experiment):
    documented = " ".join(importlib.import_module(f"configs.{experiment.partition(':')[0]}").__doc__.split())
    assert families.sentence(results(f"families/{experiment.replace(':', '-')}.json")) in documented


def test_conditional_vae_says_how_often_the_digit_is_the_one_asked_for():
    read = [
        results(f"conditional_vae/{steps}.json")["generation"]["conditional_accuracy"]["value"]
        for steps in (2000, 6000)
    ]
    documented = " ".join(importlib.import_module("configs.conditional_vae").__doc__.split())
    assert "reads {:.0%} of such images as the requested digit, and {:.0%} after".format(*read) in documented


def test_configs_say_how_far_they_keep_their_promise():
    denoising = results("denoising/2000.json")["reconstruction"]
    errors = [denoising[f"{name}_squared_error"]["value"] for name in ("corrupted", "denoised")]
    activity = [results(f"sparse/{steps}.json")["codes"]["mean_activation"]["value"] for steps in (2000, 10000)]
    rate = results("beta_vae_capacity/2000.json")["likelihood"]["rate"]["value"]
    for name, sentence in {
        "denoising": "have a squared error of {:.1f}, and their reconstructions one of {:.1f}".format(*errors),
        "sparse": "The mean activation is {:.3f} after these 2,000 steps and {:.3f} after 10,000, with a squared error "
        "of {:.1f}".format(*activity, results("sparse/10000.json")["reconstruction"]["squared_error"]["value"]),
        "beta_vae": f"(Burgess et al. 2018; {rate:.1f} are measured,",
    }.items():
        assert sentence in " ".join(importlib.import_module(f"configs.{name}").__doc__.split())


def test_the_tables_of_speed_are_those_of_the_committed_figures():
    for folder in ("", "gpu/"):
        found = report.text(results(f"{folder}speed.json"), results(f"{folder}profile.json"))
        assert (ROOT / f"experiments/results/{folder}speed.md").read_text() == found


def test_every_config_is_in_the_guides():
    for config in (ROOT / "configs").glob("*.py"):
        for page, folder in (("README.md", "configs"), ("docs/families.md", "../configs")):
            assert f"({folder}/{config.name})" in PAGES[page] or config.stem == "common"


@pytest.mark.parametrize("page", [page for page in PAGES if re.search(r"\baejax\.\w", PAGES[page])])
def test_names_of_aejax_are_reachable_from_its_import(page):
    for names in re.findall(r"\baejax((?:\.\w+)+)", PAGES[page].replace("aejax.md", "")):
        functools.reduce(getattr, names[1:].split("."), aejax)


def test_every_error_is_exported():
    errors = {name: value for name, value in vars(aejax.errors).items() if name.endswith("Error")}
    assert len(errors) >= 6
    for name, error in errors.items():
        assert name in aejax.__all__
        assert getattr(aejax, name) is error
    assert all(hasattr(aejax, name) for name in aejax.__all__)


def test_the_readme_is_short():
    assert len(README.split()) <= 900


def test_the_version_is_the_same_everywhere():
    assert f"\nversion: {aejax.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {aejax.__version__}" in PAGES["CHANGELOG.md"]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page):
    for link in re.findall(r"(?:\]\(|src=\")([^)#\"]+)", PAGES[page]):
        assert link.startswith("http") or ((ROOT / page).parent / link).exists(), link


@pytest.mark.parametrize("page", PAGES)
def test_commands_configs_keys_and_extras_exist(page):
    text = PAGES[page]
    for command in re.findall(r"-m experiments\.(\w+)", text):
        assert importlib.util.find_spec(f"experiments.{command}"), command
    for command in re.findall(r"\baejax (\w+) (?:--|runs/)", text):
        assert command in COMMANDS, command
    for config in re.findall(r"--(?:config|prior)=(\S+?\.py)", text):
        assert (ROOT / config).is_file(), config
    for folder, config in re.findall(r"--(config|prior)=(\w+)\b(?![/.])", text):
        folder = "configs" if folder == "config" else "configs/priors"
        assert config == "C" or (ROOT / folder / f"{config}.py").is_file(), config
    for key in re.findall(r"--(?:config|sweep)\.([a-z_.]+)=", text):
        *sections, name = key.split(".")
        place = functools.reduce(lambda place, section: place[section], sections, aejax.config.default())
        # The keys of a module, such as bottleneck.features, are its own; the names of weights are those of terms.
        assert name in place or set(place) == {"name"} or sections == ["objective", "weights"], key
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extras in re.findall(r"(?:-e '\.|aejax)\[([\w,]+)\]", text):
        assert set(extras.split(",")) <= set(known), extras


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with the small runs that the pages load, and with programs of one of them."""
    folder = tmp_path_factory.mktemp("workplace")
    run = aejax.train(config_of("vae"), folder / "runs/vae", devices=one_device(), quiet=True)
    shutil.copytree(folder / "runs/vae", folder / "runs/conv")
    run.export(folder / "programs")
    shutil.copytree(ROOT / "tests/pretrained/references/flax", folder / "sd-vae-ft-mse")
    shutil.copytree(ROOT / "tests/pretrained/references/sae/jumprelu", folder / "gpt2-saes/blocks.8.hook_resid_pre")
    (folder / "images").mkdir()
    for i in range(10):
        Image.fromarray(np.full((40, 48, 3), 20 * i, np.uint8)).save(folder / f"images/{i}.png")
    return folder


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The 'future.infer_string' option")  # which anndata 0.13 reads
@pytest.mark.parametrize("page", [page for page in PAGES if "```python" in PAGES[page]])
def test_the_python_of_a_page_runs(page, workplace, monkeypatch):
    """All blocks of a page one after the other; one that begins with the name of a file is written there."""
    if "import anndata" in PAGES[page]:
        pytest.importorskip("anndata")
    monkeypatch.chdir(workplace)
    monkeypatch.syspath_prepend(workplace)
    namespace = {"__name__": page}
    for block in re.findall(r"^```python\n(.*?)^```", PAGES[page], re.DOTALL | re.MULTILINE):
        if file := re.match(r"# (\w+)\.py\n", block):
            (workplace / f"{file[1]}.py").write_text(block)
            sys.modules.pop(file[1], None)
        else:
            exec(compile(block, page, "exec"), namespace)
    if page.endswith("own-loop.md"):
        assert namespace["losses"][-1] < 0.8 * namespace["losses"][0]
