"""The report: its HTML read by Python, and the page in Chromium, moved over, touched and typed into."""

import base64
import fnmatch
import html
import io
import json
import re
import tomllib
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import config_of, mlp, one_device, vectors
from matplotlib.colors import to_hex
from PIL import Image

import aejax
from aejax import data
from aejax.config import module, to_dict
from aejax.evaluation import Measure, Skipped, Subject, interactive, pictures, report
from aejax.evaluation import page as page_of
from aejax.evaluation.family import family
from aejax.evaluation.pictures.style import CLASSES, CLASSES_IN_THE_DARK

ROOT = Path(__file__).parents[2]


def subject_of(config, x, label=None):
    run = aejax.fit(config, x, label=label, devices=one_device())
    return Subject.of(run, data.split({"train": data.from_array(x, label)}, run.config.data), split="train")


@pytest.mark.parametrize(("measure", "unfolds"), [(Measure(1.0, "nats", "how"), True), (Skipped("why"), False)])
def test_what_does_not_unfold_has_no_button_for_it(measure, unfolds):
    assert ('id="unfold"' in report._metrics({"likelihood": {"elbo": measure}}).body) == unfolds


@pytest.fixture(scope="module")
def subject():
    x = np.random.default_rng(0).integers(0, 256, (60, 8, 6, 1), np.uint8)
    config = mlp(bottleneck=module("gaussian", features=3), likelihood__name="bernoulli")
    return subject_of(config, x, np.arange(60, dtype=np.int32) % 4)


MEASURES = {
    "reconstruction": {
        "pca_squared_error": Measure(12.345678, "<nats> & more", "mean over 60 </script><b>examples</b>"),
        "psnr": Skipped("PSNR is for images > 8x8"),
    },
    "likelihood": {
        "elbo": Measure(-107.61, "nats per example", "mean over 60 examples"),
        "active_units": Measure(3.0, "of 3 units", "variance above 0.01"),
    },
    "representation": {"linear_probe_accuracy": Measure(0.87, "fraction predicted correctly", "logistic regression")},
    "generation": {"frechet_distance": Measure(0.81, "squared feature units", "60 generated " * 30)},
}
FAMILIES = {
    "aae": "Adversarial autoencoder",
    "beta_tcvae": "β-TCVAE",
    "beta_vae": "β-VAE (β = 4)",
    "conditional_vae": "Conditional VAE",
    "contractive": "Contractive autoencoder",
    "conv": "Convolutional autoencoder",
    "denoising": "Denoising autoencoder",
    "dip_vae": "DIP-VAE",
    "factor_vae": "FactorVAE",
    "flow_vae": "Flow VAE",
    "info_vae": "InfoVAE",
    "iwae": "IWAE",
    "mae": "Masked autoencoder",
    "rae": "Regularized autoencoder",
    "sparse": "Sparse autoencoder",
    "stacked": "Autoencoder",
    "topk": "k-sparse autoencoder",
    "vae": "VAE",
    "vae_gan": "VAE-GAN",
    "vamp_vae": "VampPrior VAE",
    "vq_vae": "VQ-VAE",
    "wae": "Wasserstein autoencoder",
}


@pytest.fixture(scope="module")
def page(subject, tmp_path_factory):
    return report.write(subject, MEASURES, dict(pictures.draw(subject)), tmp_path_factory.mktemp("report"))


def embedded(page):
    """What the page's script reads."""
    return json.loads(re.search(r'<script type="application/json"[^>]*>(.*?)</script>', page.read_text(), re.S)[1])


# The file


@pytest.mark.slow
def test_figures_stand_beside_their_protocols_and_nothing_is_markup(page):
    text = page.read_text()
    for cell in ("PCA squared error", "12.35", "<nats> & more"):
        assert f">{html.escape(cell)}</span>" in text
    assert f'<p class="protocol">{html.escape("mean over 60 </script><b>examples</b>")}</p></details>' in text
    assert "PSNR is for images &gt; 8x8" in text
    assert "<b>" not in text
    assert "Plane: the code does not have two units" in text
    assert "step 8, " in text
    assert "<title>VAE on array-" in text
    assert f"jax {jax.__version__}" in text
    assert text.count("<figure") == text.count("<figcaption") == 6
    assert str(Path.cwd()) not in text


@pytest.mark.slow
def test_ids_are_unique_and_what_is_referred_to_is_there(page):
    text = page.read_text()
    ids = re.findall(r'\sid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    used = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', text))
    assert used
    assert {a or b for a, b in used} <= set(ids)


def test_the_title_names_the_family():
    assert {name: family(to_dict(config_of(name))) for name in FAMILIES} == FAMILIES
    nested = {"name": "residual", "quantizer": {"name": "fsq"}}
    assert family({"bottleneck": nested}) == "Residual FSQ autoencoder"
    assert family({"bottleneck": {"name": "grouped", "shared": True}}) == "Multi-head quantized autoencoder"
    assert family({"bottleneck": {"name": "grouped", "quantizer": nested}}) == "Group-quantized autoencoder"
    assert family({"bottleneck": {"name": "of.ones:Own"}, "corruption": {"name": "gaussian"}, "classes": 3}) == (
        "Conditional denoising autoencoder"
    )


@pytest.mark.parametrize("seed", range(5))
def test_two_columns_are_equally_high(seed):
    rng = np.random.default_rng(seed)
    shapes = rng.uniform([0.5, 100], [1.3, 200], (7, 2))
    left, share = page_of.columns(shapes)
    assert 0 in left
    assert 1 not in left
    widths = np.where([i in left for i in range(7)], share, 1 - share) * (1032 - 16)
    heights = [(width - 42) * height + more + 16 for width, (height, more) in zip(widths, shapes, strict=True)]
    assert sum(heights[i] for i in left) == pytest.approx(sum(heights) / 2)
    assert page_of.columns(shapes[:1]) == ({0}, 1)


@pytest.mark.slow
def test_labels_cannot_end_the_script(subject, tmp_path, monkeypatch):
    view = "", "<div></div>", {"names": ["</script><script>"]}
    monkeypatch.setattr(interactive, "view", lambda *_: view)
    file = report.write(subject, {}, dict(pictures.draw(subject)), tmp_path)
    assert file.read_text().count("</script>") == 2
    assert embedded(file) == view[-1]


@pytest.mark.slow
def test_a_report_without_a_map(subject, tmp_path):
    text = report.write(subject, MEASURES, {"map": Skipped("a <reason>")}, tmp_path).read_text()
    assert "Map: a &lt;reason&gt;" in text
    assert 'id="map"' not in text


def test_points_lie_as_codes_on_one_scale(page, subject):
    text = page.read_text()
    drawn = np.array(re.findall(r'<circle class="c(\d)" cx="(.*?)" cy="(.*?)"', text), float)
    points, _ = subject.once(pictures.of_subject.projected, "pca")
    (right, _), (up, _) = (np.polyfit(points[:, k], drawn[:, 1 + k], 1) for k in range(2))
    assert right == pytest.approx(-up, rel=0.01)
    assert np.ptp(drawn[:, 1] - right * points[:, 0]) < 1
    assert np.ptp(drawn[:, 2] - up * points[:, 1]) < 1
    np.testing.assert_array_equal(drawn[:, 0], subject.test.label)
    height = float(re.search(r'id="map" viewBox="0 0 1000 (\d+)"', text)[1])
    assert drawn[:, 1:].min() > 0
    assert (drawn[:, 1:].max(0) < [1000, height]).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_sheet_holds_the_images_row_by_row(channels):
    images = np.random.default_rng(0).uniform(size=(5, 4, 6, channels))
    uri = interactive.sheet(images, columns=2)
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,")))))
    assert sheet.shape[:2] == (12, 12)
    for i, image in enumerate(images):
        tile = sheet[i // 2 * 4 :, i % 2 * 6 :][:4, :6].reshape(4, 6, channels)
        np.testing.assert_allclose(tile / 255, image, atol=1 / 255)


def test_large_images_are_shrunk_for_the_sheet():
    image = np.random.default_rng(0).uniform(size=(64, 32, 3)).astype(np.float32)
    means = image.reshape(32, 2, 16, 2, 3).mean((1, 3))
    np.testing.assert_allclose(interactive._shrunk(image), means, rtol=1e-4)


def test_what_is_no_python_is_shipped():
    """hatchling packs all files of the packages that are named, but for those that git ignores."""
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert build["build-system"]["build-backend"] == "hatchling.build"  # its editable install is a path
    wheel = {"packages": ["aejax"], "force-include": {"configs": "aejax/configs"}}  # nothing is left out
    assert build["tool"]["hatch"]["build"] == {"targets": {"wheel": wheel}}
    ignored = [line.strip("/") for line in (ROOT / ".gitignore").read_text().split()]
    for file in ("py.typed", "evaluation/report.html", "ablation/tables.css", "ablation/tables.js"):
        assert (ROOT / "aejax" / file).is_file()
        assert not any(fnmatch.fnmatch(part, line) for part in Path(file).parts for line in ignored)


# The page


SCREENS = [(1280, False), (1280, True), (390, False), (390, True)]


@pytest.mark.parametrize(("width", "dark"), SCREENS)
def test_the_page_fits_can_be_read_and_asks_for_nothing(browser, page, width, dark):
    browser.open(page, width, dark=dark)
    assert browser.value("document.documentElement.scrollWidth") == width
    inside = "[...document.querySelectorAll('.card, dl, pre')].every((e) => e.scrollWidth <= e.clientWidth)"
    assert browser.value(f"document.querySelector('details').open = true, {inside}")
    background = browser.value("getComputedStyle(document.body).backgroundColor")
    assert (max(map(int, re.findall(r"\d+", background))) < 60) == dark
    names = "h1,dt,dd,small,nav a,.value,.unit,.protocol,figcaption,figure svg text,#map text,button"
    ratios = browser.contrasts(names)
    assert len(ratios) == 12
    assert min(ratios.values()) > 4.5, ratios  # WCAG 2.1, AA
    colors = browser.value("[0, 1, 2, 3].map((k) => getComputedStyle(document.querySelector(`circle.c${k}`)).fill)")
    expected = (CLASSES_IN_THE_DARK if dark else CLASSES)[:4]
    assert [to_hex([int(v) / 255 for v in re.findall(r"\d+", color)]) for color in colors] == list(expected)
    assert browser.complaints() == []
    assert browser.asked() == {"file", "data"}


@pytest.mark.parametrize(("width", "most"), [(1280, 900), (390, 1200)])
def test_headlines_contents_and_pictures_come_first_and_protocols_are_folded(browser, page, width, most):
    browser.open(page, width)
    tops = "['.tiles', 'nav', 'figure svg'].map((s) => document.querySelector(s).getBoundingClientRect().top)"
    tiles, contents, picture = browser.value(tops)
    assert tiles < contents < picture < most
    assert browser.value("document.querySelectorAll('.tiles li').length") == 5
    targets = browser.value("[...document.querySelectorAll('nav a')].map((a) => document.querySelector(a.hash)?.id)")
    groups = [f"metrics-{group}" for group in MEASURES]
    assert targets == ["pictures", "codes", "metrics", *groups, "skipped", "run"]
    shown = "[...document.querySelectorAll('.protocol')].map((p) => p.checkVisibility())"
    assert browser.value(shown) == [False] * 5
    browser.value("document.querySelector('.metric summary').click()")
    assert browser.value(shown) == [True] + [False] * 4
    browser.value("document.getElementById('unfold').click()")
    assert browser.value(shown) == [True] * 5
    assert browser.value("document.documentElement.scrollWidth") == width


def test_no_column_ends_in_a_hole(browser, page):
    browser.open(page)
    spare = "(f) => f.getBoundingClientRect().bottom - f.querySelector('figcaption').getBoundingClientRect().bottom"
    spares = browser.value(f"[...document.querySelectorAll('.column figure:last-child')].map({spare})")
    assert len(spares) == 2
    assert max(spares) < 80  # of them 21 are the card's own frame


def place(browser, i):
    """The middle of a point on the screen, scrolled to."""
    box = f"document.querySelectorAll('.dots circle')[{i}].getBoundingClientRect()"
    browser.value("document.querySelector('.map').scrollIntoView()")
    return browser.value(f"(() => {{ const r = {box}; return [r.x + r.width / 2, r.y + r.height / 2]; }})()")


def sprite(browser, name):
    """The pixels of the panel's input or reconstruction as they are on the screen, [8, 6] in [0, 1]."""
    box = browser.value(
        f"(() => {{ const r = document.querySelector('.sprite.{name}').getBoundingClientRect();"
        " return {x: r.x + scrollX, y: r.y + scrollY, width: r.width, height: r.height}; })()"
    )
    picture = Image.open(io.BytesIO(base64.b64decode(browser.screenshot(clip={**box, "scale": 1})))).convert("L")
    zoom = picture.width // 6
    assert picture.size == (6 * zoom, 8 * zoom)
    return np.asarray(picture)[zoom // 2 :: zoom, zoom // 2 :: zoom] / 255


def shows(browser, part, i):
    assert browser.value("document.getElementById('example').dataset.index") == str(i)
    assert browser.value("document.getElementById('name').textContent") == f"Label {part.label[i]}"
    np.testing.assert_allclose(sprite(browser, "input"), part.inputs[i, ..., 0], atol=0.02)
    np.testing.assert_allclose(sprite(browser, "reconstruction"), part.reconstructions[i, ..., 0], atol=0.02)
    error = np.square(part.inputs[i] - part.reconstructions[i]).sum()
    assert float(browser.value("document.getElementById('error').textContent")) == pytest.approx(error, rel=1e-3)


@pytest.mark.parametrize("width", [1280, 390])
def test_a_mouse_over_a_point_shows_its_example(browser, page, subject, width):
    browser.open(page, width)
    shows(browser, subject.test, 0)
    for i in (17, 47, 31):
        x, y = place(browser, i)
        browser.do("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        shows(browser, subject.test, i)


def test_a_finger_on_a_point_shows_its_example(browser, page, subject):
    browser.open(page, 390)
    browser.do("Emulation.setTouchEmulationEnabled", enabled=True)
    x, y = place(browser, 42)
    browser.do("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
    browser.do("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    shows(browser, subject.test, 42)
    browser.do("Emulation.setTouchEmulationEnabled", enabled=False)


def test_arrows_move_from_point_to_point(browser, page, subject):
    browser.open(page)
    at = np.array(re.findall(r'<circle class="c\d" cx="(.*?)" cy="(.*?)"', page.read_text()), float)
    browser.value("document.getElementById('map').focus()")
    now, moves = 0, 0
    for key, way in {"ArrowRight": (1, 0), "ArrowUp": (0, -1), "ArrowLeft": (-1, 0), "ArrowDown": (0, 1)}.items():
        browser.do("Input.dispatchKeyEvent", type="keyDown", key=key)
        then = int(browser.value("document.getElementById('example').dataset.index"))
        assert then == now or (at[then] - at[now]) @ way > 0
        moves += then != now
        now = then
    assert moves >= 3  # a point at the rim has none further out
    shows(browser, subject.test, now)


def test_a_label_alone(browser, page, subject):
    browser.open(page)
    browser.value("document.querySelectorAll('#legend button')[2].click()")
    faint = "[...document.querySelectorAll('.dots circle')].map((c) => Number(getComputedStyle(c).opacity) < 0.5)"
    np.testing.assert_array_equal(browser.value(faint), subject.test.label != 2)
    shows(browser, subject.test, 2)
    x, y = place(browser, 17)  # of label 1: the nearest one that is shown is taken
    browser.do("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    assert browser.value("document.getElementById('name').textContent") == "Label 2"
    browser.value("document.querySelectorAll('#legend button')[2].click()")
    assert not any(browser.value(faint))


@pytest.mark.slow
def test_the_numbers_of_vectors_are_shown(browser, tmp_path):
    x = vectors(60)
    points = subject_of(mlp(), x)
    file = report.write(points, {}, dict(pictures.draw(points)), tmp_path)
    browser.open(file, 390)
    assert browser.value("document.documentElement.scrollWidth") == 390
    x, y = place(browser, 7)
    browser.do("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    rows = browser.value("[...document.querySelectorAll('#numbers tbody tr')].map((r) => r.innerText.split('\\t'))")
    part = points.test
    np.testing.assert_allclose(
        np.array(rows, float), np.stack([np.arange(6) + 1, part.inputs[7], part.reconstructions[7]], 1), rtol=1e-3
    )
