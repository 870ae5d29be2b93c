"""The notebooks of examples/: each runs from its first cell to its last, and shows what its text says."""

import json
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def executed(name: str) -> dict:
    """Returns the names that a notebook defines, after all of its code has run."""
    namespace: dict = {"__name__": name}
    for i, cell in enumerate(json.loads((EXAMPLES / f"{name}.ipynb").read_text())["cells"]):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{name}, cell {i}", "exec"), namespace)
    return namespace


@pytest.fixture(autouse=True)
def _in_a_new_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
def test_latents_of_your_array(tmp_path):
    shown = executed("latents_of_your_array")
    assert shown["error"] < 0.9 * shown["pca_error"]
    assert shown["accuracy"] > 0.8
    assert (tmp_path / "latents.npz").exists()


@pytest.mark.slow
def test_vq_vae_and_prior():
    shown = executed("vq_vae_and_prior")
    assert shown["error"] < 4
    assert shown["nats"] < 0.8 * shown["independent"]
    assert shown["new"].shape == (8, 8, 8, 1)


@pytest.mark.slow
def test_ablation():
    rows = executed("ablation")["rows"]
    error, kl = ([row.cells[f"validation/{name}"].mean for row in rows] for name in ("squared_error", "kl"))
    assert error == sorted(error)
    assert kl == sorted(kl, reverse=True)


def test_notebooks_are_committed_without_outputs():
    for file in EXAMPLES.glob("*.ipynb"):
        assert not any(cell.get("outputs") for cell in json.loads(file.read_text())["cells"]), file.name
