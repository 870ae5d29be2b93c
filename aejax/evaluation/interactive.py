"""The map of the codes as HTML, where each point shows its example; the script is in report.html."""

import base64
import html
import io
import math
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator
from PIL import Image
from skimage.util import montage

from aejax.evaluation.pictures.latents import classes
from aejax.evaluation.pictures.of_subject import ON_THE_MAP, projected
from aejax.evaluation.pictures.tiles import as_thumbnails, refuse
from aejax.evaluation.reconstruction import squared_errors
from aejax.evaluation.subject import Subject

VALUES = 1_600_000  # at most of all images together: 2,000 of 28x28
SIDE = 32  # pixels of an image at most
SHOWN = 112  # pixels of an image on the screen
NUMBERS = 12  # shown of a vector at most


def view(subject: Subject, projection: str = "pca") -> tuple[str, str, dict[str, Any]]:
    """Returns the map of at most 2,000 examples of the test part: CSS rules, HTML, and what the page's script reads.

    Args:
      projection: as in `pictures.latents.project`.
    """
    points, axes = subject.once(projected, projection)
    part = subject.test.take(ON_THE_MAP)
    spec = subject.run.spec
    image = part.wanted.ndim > 2 and not refuse(spec)
    size = math.prod(min(s, SIDE) for s in as_thumbnails(part.wanted[:1], spec).shape[1:]) if image else 1
    count = min(len(part), VALUES // size) if image else len(part)
    kept = np.linspace(0, len(part) - 1, count).round().astype(int)
    wanted, outputs = part.wanted[kept], part.reconstructions[kept]
    label = None if part.label is None else part.label[kept]
    place, names = classes(label, count)
    errors = squared_errors(wanted, outputs)
    data = {
        "classes": place.tolist(),
        "names": [f"Point {i + 1}" if label is None else f"Label {label[i]}" for i in range(count)],
        "errors": [f"{e:.4g}" for e in errors],
    }
    if image:
        rules, shown, more = _images(*(as_thumbnails(values, spec) for values in (wanted, outputs)))
    else:
        rules, more = "", {"inputs": _numbers(wanted), "outputs": _numbers(outputs)}
        shown = _TABLE if part.target is None else _TABLE.replace("Input", "Target")
    caption = (
        f"{count:,} examples of {part.name}; horizontal: {axes[0]}; vertical: {axes[1]}. "
        "Point at a code, or move with the arrow keys, to see its example."
    )
    section = (
        f'<div class="card map">{_scatter(points[kept], place)}<div class="side">'
        f'<div id="example" aria-live="polite"><strong id="name"></strong>{shown}'
        f'<div class="muted">Squared error <span id="error"></span></div></div>'
        f'{_legend(names, -1 in place)}<p class="muted">{html.escape(caption)}</p></div></div>'
    )
    return rules, section, data | more


def _legend(names: list[str], others: bool) -> str:
    """Returns a button for each label, which shows the points of that label alone."""
    entries = [(k, name) for k, name in enumerate(names) if name] + [(-1, "others")] * others
    buttons = (
        f'<button type="button" value="{k}" aria-pressed="false"><i class="c{k}"></i>{html.escape(name)}</button>'
        for k, name in entries
    )
    return f'<div id="legend" role="group" aria-label="One label alone">{"".join(buttons)}</div>' if entries else ""


def _scatter(points: np.ndarray, place: np.ndarray) -> str:
    """Returns circles in a box 1,000 wide with one scale for both axes, over a few grid lines with their values."""
    center, extent = (points.max(0) + points.min(0)) / 2, np.maximum(np.ptp(points, axis=0) * 1.06, 1e-6)
    scale = min(1000 / extent[0], 900 / extent[1])
    size = np.array([1000, max(600, scale * extent[1])])
    x, y = ((points - center) * scale * [1, -1] + size / 2).T
    lines = []
    for axis in (0, 1):
        half = size[axis] / 2 / scale
        for value in MaxNLocator(6).tick_values(center[axis] - half, center[axis] + half)[1:-1]:
            at = (value - center[axis]) * scale * (1, -1)[axis] + size[axis] / 2
            if axis == 0:
                lines.append(f'<path d="M{at:.1f} 0V{size[1]:.0f}"/><text x="{at + 5:.1f}" y="{size[1] - 7:.0f}">')
            else:
                lines.append(f'<path d="M0 {at:.1f}H1000"/><text x="4" y="{at - 6:.1f}">')
            lines.append(f"{value:g}</text>".replace("-", "&minus;"))
    circles = (f'<circle class="c{k}" cx="{a:.1f}" cy="{b:.1f}" r="6"/>' for k, a, b in zip(place, x, y, strict=True))
    return (
        f'<svg id="map" viewBox="0 0 1000 {size[1]:.0f}" tabindex="0" role="group" aria-label="Map of the codes">'
        f'<g>{"".join(lines)}</g><g class="dots">{"".join(circles)}</g><circle id="ring" r="11"/></svg>'
    )


def _images(inputs: np.ndarray, outputs: np.ndarray) -> tuple[str, str, dict[str, Any]]:
    """Returns the sprite sheets' CSS rules, their HTML, and their number of columns for the script."""
    columns = math.ceil(math.sqrt(len(inputs)))
    rules, places = [], []
    for name, images in (("input", inputs), ("reconstruction", outputs)):
        small = np.stack([_shrunk(image) for image in images])
        h, w, _ = small.shape[1:]
        zoom = max(1, SHOWN // max(h, w))
        size = f"{columns * w * zoom}px {math.ceil(len(small) / columns) * h * zoom}px"
        rules.append(
            f".{name} {{ width: {w * zoom}px; height: {h * zoom}px; "
            f"background-size: {size}; background-image: url({sheet(small, columns)}); }}"
        )
        places.append(f'<div>{name.capitalize()}<div class="sprite {name}"></div></div>')
    return "\n".join(rules), f'<div class="sprites">{"".join(places)}</div>', {"columns": columns}


def sheet(images: np.ndarray, columns: int) -> str:
    """Returns images [n, h, w, c] in [0, 1], row by row without gaps, as the data URI of one PNG."""
    pixels = np.round(255 * np.clip(np.nan_to_num(images), 0, 1)).astype(np.uint8)
    shape = math.ceil(len(images) / columns), columns
    whole = montage(pixels, (0,) * pixels.shape[-1], grid_shape=shape, channel_axis=-1)
    buffer = io.BytesIO()
    Image.fromarray(whole.squeeze(-1) if whole.shape[-1] == 1 else whole).save(buffer, "png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _shrunk(image: np.ndarray) -> np.ndarray:
    """Returns the image [h, w, c] in [0, 1], shrunk until no side exceeds SIDE."""
    h, w, _ = image.shape
    if max(h, w) <= SIDE:
        return image
    factor = SIDE / max(h, w)
    size = max(1, round(w * factor)), max(1, round(h * factor))
    channels = [Image.fromarray(c).resize(size, Image.Resampling.BOX) for c in np.moveaxis(image, -1, 0)]
    return np.stack([np.asarray(c) for c in channels], -1)


def _numbers(vectors: np.ndarray) -> list[list[str]]:
    return [[f"{v:.4g}" for v in row] for row in vectors.reshape(len(vectors), -1)[:, :NUMBERS]]


_TABLE = (
    '<table id="numbers"><thead><tr><th></th><th>Input</th><th>Reconstruction</th></tr></thead><tbody></tbody></table>'
)
