"""The table of published figures: its rows, their records, and PyTorch's side."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from commands import ROOT
from conftest import MNIST, command, needs_mnist

from aejax.files import read_json
from experiments.published import record, table
from experiments.published.rows import ROWS

RECORDS = table.read_records(ROOT / "experiments/results/published")


@pytest.mark.parametrize("name", ROWS)
def test_a_row_makes_its_passes_with_its_changes(name):
    config = ROWS[name].make_config(passes=2)
    assert config.steps * config.batch_size <= 2 * 60_000 < (config.steps + 1) * config.batch_size
    before = config.to_dict()
    config.update_from_flattened_dict(ROWS[name].changes)
    assert config.to_dict() == before


def a_record(**changes):
    return {
        "row": "vae",
        "config": "burda",
        "changes": {},
        "note": "",
        "published": 86.76,
        "source": "a paper",
        "protocol": "few",
        "passes": 121,
        "passes_of_paper": 3_280,
        "seeds": [{"nats": 87.0, "training_seconds": 60.0}, {"nats": 88.0, "training_seconds": 120.0}],
        "peer": {"nats": 87.6},
        **changes,
    }


def test_the_table_shows_means_and_what_the_paper_reports():
    lines = table.make_table({"vae": a_record()}).splitlines()
    row = next(line for line in lines if line.startswith("| `vae`"))
    assert "| nats | 121 (3,280) | 86.76 | 87.50 ± 0.71 | 87.60 | 2 min |" in row
    assert "- `vae`: a paper." in lines


@pytest.mark.parametrize(("nats", "reached"), [(87.2, True), (87.3, False)])
def test_a_goal_is_half_a_nat_above_the_paper(nats, reached):
    (goal,) = table.make_goals(a_record(seeds=[{"nats": nats, "training_seconds": 1.0}]))
    assert (goal["goal"], goal["value"], goal["reached"]) == (87.26, nats, reached)
    assert table.make_goals(a_record(published=None)) == []


def test_the_committed_table_is_that_of_the_records():
    assert (ROOT / "experiments/results/published.md").read_text() == table.make_table(RECORDS)


def test_committed_records_say_what_their_rows_say():
    for name, found in RECORDS.items():
        row = ROWS[name]
        assert (found["config"], found["published"], found["changes"]) == (row.config, row.published, dict(row.changes))


@pytest.fixture
def prepared(monkeypatch):
    """Lets rows, which name no folder, find the MNIST that tests found."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(MNIST))


@needs_mnist
@pytest.mark.slow
@pytest.mark.usefixtures("prepared")
@pytest.mark.parametrize("name", RECORDS)
def test_a_short_run_reaches_what_it_reached(name):
    """After 200 steps rounding, which differs between processors, moves the figure by far less than a percent."""
    folder = Path(MNIST).parent
    if not (folder / ROWS[name].folder).is_dir():
        pytest.skip(f"no {ROWS[name].folder} beside MNIST")
    assert record.short(ROWS[name], folder) == pytest.approx(RECORDS[name]["short"][ROWS[name].measure], rel=0.01)


@needs_mnist
@pytest.mark.slow
@pytest.mark.usefixtures("prepared")
def test_the_command_writes_record_table_and_goals(tmp_path, monkeypatch):
    reproduce = command("reproduce", "experiments")
    row = dataclasses.replace(ROWS["iwae_5"], samples=5)
    monkeypatch.setattr(reproduce, "ROWS", {"iwae_5": row})
    whole = record.data.load
    cut = lambda config: record.data.Splits(*(part.sample(200) for part in whole(config)))  # noqa: E731
    monkeypatch.setattr(record.data, "load", cut)
    monkeypatch.setitem(record.SHORT, "steps", 10)
    folders = (f"--runs={tmp_path}/runs", f"--results={tmp_path}")
    reproduce.flags.FLAGS(["reproduce", "--rows=iwae_5", "--passes=4", "--seeds_of_row=2", "--nopeer", *folders])
    reproduce.reproduce()
    found = read_json(tmp_path / "published/iwae_5.json")
    first, second = found["seeds"]
    assert first["nats"] != second["nats"]
    assert first["nats"] > -first["elbo"] - 50  # one bound of many samples, one of a single one
    assert first["training_seconds"] > 0
    assert found["short"]["nats"] > 0
    assert (tmp_path / "published.md").read_text() == table.make_table({"iwae_5": found})
    (goal,) = json.loads((tmp_path / "goals/likelihoods.json").read_text())
    assert goal["command"] == "python -m experiments.reproduce --rows=iwae_5"


class TestPyTorch:
    """PyTorch's side computes the bounds and densities that ours does."""

    @pytest.fixture
    def peer(self):
        pytest.importorskip("torch")
        from experiments.published import peer

        return peer

    def test_bounds_are_those_of_weights(self, peer):
        import torch

        log_w = torch.randn(8, 3)
        assert peer.iwae(log_w).item() == pytest.approx(-np.log(np.exp(log_w.numpy()).mean(0)).mean(), rel=1e-5)
        assert peer.miwae(log_w, 1).item() == pytest.approx(peer.iwae(log_w).item(), rel=1e-6)
        assert peer.miwae(log_w, 8).item() == pytest.approx(-log_w.mean().item(), abs=1e-6)
        assert peer.ciwae(log_w, 1.0).item() == pytest.approx(-log_w.mean().item(), abs=1e-6)

    @pytest.mark.parametrize("layers", [[(8, 3)], [(8, 4), (6, 2)]])
    def test_more_samples_raise_the_bound_of_a_normalized_density(self, peer, layers):
        """The densities of all images of 3 pixels sum to one, whatever the weights are."""
        import torch

        torch.manual_seed(0)
        model = peer.Burda(layers, np.full(3, 0.3, np.float32))
        images = torch.tensor([[(i >> bit) & 1 for bit in range(3)] for i in range(8)], dtype=torch.float32)
        with torch.inference_mode():
            log_p = torch.logsumexp(model.log_weights(images, 20_000), 0) - np.log(20_000)
        assert log_p.exp().sum().item() == pytest.approx(1, abs=0.02)
