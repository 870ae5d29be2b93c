"""The pages of latents: what each fires for, against loops over the examples, and their HTML."""

import re

import numpy as np
import pytest
from conftest import fresh, subject_of

from aejax import data
from aejax.config import default, module
from aejax.evaluation import Skipped, Subject, latent_page, pictures, report, sparse


def run_of(x, name="", options="", features=30):
    config = default()
    config.data.name, config.data.options = name or "x", options
    config.encoder, config.decoder = module("mlp", features=()), module("mlp", features=())
    config.bottleneck = module("topk", features=features, k=3)
    return fresh(config, x)


@pytest.fixture(scope="module")
def known():
    config = default()
    config.data.name, config.data.options = "sparse_features", "features=24,dims=10,roots=3,examples=900"
    splits = data.load(config.data)
    run = run_of(data.read(splits.test)["x"], config.data.name, config.data.options)
    return Subject.of(run, splits)


def test_latents_are_described_by_the_examples_that_they_fire_for(known):
    part = known.test
    z, found = part.latents, latent_page.describe(part, 6)
    often = (z != 0).mean(0)
    assert len(found) == 6
    assert found[0].frequency == often.max()
    assert found[-1].frequency == often[often > 0].min()
    active = part.truth.activations(part.rows).toarray() > 0
    directions = sparse.find_directions(known.run, z)
    for latent in found:
        own = z[:, latent.number]
        assert latent.activations == pytest.approx(np.sort(own)[::-1][: np.count_nonzero(own)][:8])
        assert (own[latent.examples] == latent.activations).all()
        assert latent.counts.sum() == np.count_nonzero(own)
        assert latent.direction == pytest.approx(directions[latent.number])
        number, cosine, f1 = latent.feature
        cosines = part.truth.directions @ latent.direction / np.linalg.norm(latent.direction)
        assert (number, cosine) == (cosines.argmax(), pytest.approx(cosines.max(), rel=1e-4))
        both = ((own != 0) & active[:, number]).sum()
        assert f1 == pytest.approx(2 * both / ((own != 0).sum() + active[:, number].sum()))
        others = directions @ latent.direction / np.linalg.norm(directions, axis=1) / np.linalg.norm(latent.direction)
        others[latent.number] = -np.inf
        assert latent.neighbors[0] == (others.argmax(), pytest.approx(others.max(), rel=1e-4))


def test_the_report_has_a_card_for_each_latent_whose_links_lead_to_cards(known, tmp_path):
    page = report.write(known, {}, {}, tmp_path).read_text()
    cards = set(re.findall(r'id="(latent-\d+)"', page))
    assert len(cards) == min(24, np.count_nonzero((known.test.latents != 0).any(0)))
    assert set(re.findall(r'href="#(latent-\d+)"', page)) <= cards
    assert "Most like feature" in page
    assert 'href="#latents"' in page  # in the contents


def test_top_examples_and_directions_of_images_are_images():
    x = np.random.default_rng(0).integers(0, 256, (80, 8, 8, 1), np.uint8)
    run = run_of(x)
    rules, shown = latent_page.view(subject_of(run, x), 5)
    assert shown.count("<img") == 10
    assert ".latents" in rules
    assert "feature" not in shown


def test_dense_codes_have_no_latents_to_show_nor_firing_frequencies():
    x = np.random.default_rng(0).normal(size=(30, 6)).astype(np.float32)
    config = default()
    config.bottleneck = module("dense", features=3)
    subject = subject_of(fresh(config, x), x)
    assert isinstance(latent_page.view(subject), Skipped)
    assert isinstance(pictures.PICTURES["firing_frequency"](subject), Skipped)


def test_the_chart_of_firing_frequencies_counts_every_latent_that_fires(known):
    picture = pictures.PICTURES["firing_frequency"](known)
    (stairs,) = picture.figure.axes[0].patches
    alive = np.count_nonzero((known.test.latents != 0).any(0))
    assert stairs.get_data().values.sum() == alive
    assert f"{30 - alive} never fire" in picture.caption
