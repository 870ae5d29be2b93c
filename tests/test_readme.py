"""Nothing in the README that a command did not make."""

import importlib
import json
import re
from pathlib import Path

import pytest

from experiments import families, reproduce
from experiments.benchmark import own, report, together

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
WORDS = " ".join(README.split())


def results(name):
    return json.loads((ROOT / "experiments/results" / name).read_text())


def test_figures_are_those_of_the_committed_results():
    assert reproduce.table(results("reconstruction.json")) in README
    assert own.sentence(results("loop.json")) in WORDS
    assert own.sentence_on_evaluation(results("evaluation.json")) in WORDS
    assert report.sentence(results("speed.json")) in WORDS
    assert ("in no more memory than any peer" in WORDS) == (report.memory(results("speed.json")) == "")
    assert report.sentence_on_accelerator(results("gpu/speed.json")) in WORDS
    for file in ("profile.json", "gpu/profile.json"):
        assert report.sentence_on_ceilings(results(file)) in WORDS
    conv, mlp = (results("gpu/loop.json")[name]["loop_over_bare"] for name in ("conv", "mlp"))
    assert f"reaches {mlp:.0%} of the bare step with one every 0.3 s of training, {conv:.0%} with one" in WORDS
    assert together.sentence(results("together.json")) in WORDS
    _, pmap, sharded = results("partition.json")["points"]
    assert f"holds {sharded['state_mib']:.0f} MiB in place of {pmap['state_mib']:.0f} (" in WORDS
    start = results("startup.json")
    assert f"first step {start['cold']:.1f} s after it is given, {start['warm']:.1f} s" in WORDS


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


def test_the_tables_of_speed_are_those_of_the_committed_figures():
    for folder in ("", "gpu/"):
        found = report.text(results(f"{folder}speed.json"), results(f"{folder}profile.json"))
        assert (ROOT / f"experiments/results/{folder}speed.md").read_text() == found


def test_every_config_is_in_the_guide():
    for config in (ROOT / "configs").glob("*.py"):
        assert f"(configs/{config.name})" in README or config.stem == "common"


def test_files_and_links_exist():
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert link.startswith("http") or (ROOT / link).exists(), link
    for config in re.findall(r"--config=(\S+\.py)", README):
        assert (ROOT / config).exists()
