"""The HTML page that the reports of runs and of ablations share: one file that reads no other."""

import html
import io
import itertools
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from string import Template
from typing import Any, NamedTuple

import matplotlib
from matplotlib.figure import Figure

from aejax.evaluation.pictures import Picture
from aejax.evaluation.pictures.style import CLASSES, CLASSES_IN_THE_DARK, INK, MUTED, style
from aejax.evaluation.subject import Skipped

_WIDTH, _GAP = 1032, 16  # pixels of both columns of a gallery together, and between its cards
_FRAME, _WORDS, _LINE = 42, 107, 21  # pixels that a card adds to its picture: at the sides, above and below, for a line
_SPELLED = {name: name.upper() for name in ("auroc", "dci", "elbo", "kl", "mig", "pca", "psnr", "sap", "ssim", "vae")}
_SPELLED |= {"frechet": "Fréchet", "knn": "k-NN", "normalised": "normalized", "rand": "Rand"}


class Tile(NamedTuple):
    """A headline figure with its name and a note, e.g. its unit."""

    name: str
    value: str
    note: str


class Section(NamedTuple):
    """A section of the page.

    Attributes:
      id: that the list of contents links to.
      title: plain text.
      body: HTML.
      parts: titles by id within the body, which the list of contents names as well.
    """

    id: str
    title: str
    body: str
    parts: Mapping[str, str] = {}


def render(
    title: str,
    subtitle: str,
    tiles: Sequence[Tile],
    sections: Sequence[Section],
    config: Mapping[str, Any],
    rules: str = "",
    data: Any = None,
) -> str:
    """Returns the whole page: headline figures, contents, then the sections with the config at the end of the last.

    Args:
      rules: of CSS, for this page alone.
      data: what the page's script reads, as JSON.
    """
    links = [(id, name, id == s.id) for s in sections for id, name in ((s.id, s.title), *s.parts.items())]
    classes = range(-1, len(CLASSES))
    details = f"<details><summary>The whole config</summary><pre>{text(json.dumps(config, indent=2))}</pre></details>"
    bodies = [s.body + details * (s is sections[-1]) for s in sections]
    return Template((resources.files("aejax.evaluation") / "report.html").read_text("utf-8")).substitute(
        title=text(title),
        subtitle=text(subtitle),
        tiles="".join(
            f"<li>{text(t.name)}<strong>{text(t.value)}</strong><small>{text(t.note)}</small></li>" for t in tiles
        ),
        contents="".join(
            f'<li><a href="#{id}"{"" if whole else " class=part"}>{text(name)}</a></li>' for id, name, whole in links
        ),
        sections="".join(
            f'<section id="{s.id}"><h2>{text(s.title)}</h2>{body}</section>'
            for s, body in zip(sections, bodies, strict=True)
        ),
        light=_colors(CLASSES),
        dark=_colors(CLASSES_IN_THE_DARK),
        fills="\n".join(f".c{k} {{ fill: var(--c{k}); background: var(--c{k}); }}" for k in classes),
        rules=rules,
        # In a script nothing is unescaped, so that no "<" may stand there.
        data=json.dumps(data).replace("<", "\\u003c"),
    )


def _colors(classes: Sequence[str]) -> str:
    """Returns CSS variables for the colors of the classes; class -1 holds all others."""
    return " ".join(f"--c{k}: {c};" for k, c in enumerate(classes)) + " --c-1: var(--muted);"


def gallery(pictures: Mapping[str, Picture | Skipped], title: Callable[[str], str]) -> str:
    """Returns the pictures in two columns of equal height, then the names of those left out and why.

    Args:
      title: of a picture, by its name.
    """
    cards: list[str] = []
    shapes: list[tuple[float, float]] = []
    for name, picture in pictures.items():
        if isinstance(picture, Skipped):
            continue
        caption = text(picture.caption)
        image = svg(picture.figure, name).replace("<svg", f'<svg role="img" aria-label="{caption}"', 1)
        cards.append(
            f'<figure class="card" style="order: {len(cards)}"><h3>{text(title(name))}</h3>{image}'
            f"<figcaption>{caption}</figcaption></figure>"
        )
        width, height = map(float, re.findall(r'viewBox="0 0 (\S+) (\S+)"', image)[0])
        shapes.append((height / width, _WORDS + _LINE * math.ceil(len(picture.caption) / 66)))
    left, share = columns(shapes)
    halves = ["".join(card for i, card in enumerate(cards) if (i in left) == first) for first in (True, False)]
    inside = "".join(f'<div class="column">{half}</div>' for half in halves if half)
    skipped = [f"{text(title(n))}: {text(p.reason)}" for n, p in pictures.items() if isinstance(p, Skipped)]
    rest = "".join(f"<li>{line}</li>" for line in skipped)
    left_out = f'<p class="muted">Not drawn:</p><ul class="muted">{rest}</ul>' if skipped else ""
    widths = f"--left: {100 * share:.1f}fr; --right: {100 * (1 - share):.1f}fr"
    return f'<div class="gallery" style="{widths}">{inside}</div>{left_out}'


def columns(shapes: Sequence[tuple[float, float]]) -> tuple[set[int], float]:
    """Returns which cards stand in the left column, and the fraction of the width that makes both equally high.

    The first card is on the left and the second on the right; the others stand where the widths differ least.

    Args:
      shapes: of each card: the height of its picture as a multiple of the width, and the pixels that the card adds.
    """
    if len(shapes) < 2:
        return set(range(len(shapes))), 1.0
    found = []
    for picks in itertools.product((True, False), repeat=len(shapes) - 2):
        left = {0, *(i for i, pick in enumerate(picks, 2) if pick)}
        slopes, offsets = [0.0, 0.0], [0.0, 0.0]
        for i, (height, more) in enumerate(shapes):
            slopes[i not in left] += height
            offsets[i not in left] += more + _GAP - _FRAME * height
        width = (_WIDTH - _GAP) * slopes[1] + offsets[1] - offsets[0]
        found.append((width / sum(slopes) / (_WIDTH - _GAP), left))
    share, left = min(found, key=lambda each: abs(each[0] - 0.5))
    return left, min(max(share, 0.42), 0.58)


def svg(figure: Figure, name: str) -> str:
    """Returns the figure as an <svg> element in the page's own colors, text as text."""
    buffer = io.StringIO()
    with style(), matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", bbox_inches="tight", transparent=True, metadata=nothing)
    drawn = buffer.getvalue()
    drawn = drawn[drawn.index("<svg") :].replace(INK, "currentColor").replace(MUTED, "var(--muted)")
    for k, color in enumerate(CLASSES):
        drawn = drawn.replace(color, f"var(--c{k})")
    # Matplotlib numbers its groups in every figure alike, and nothing refers to them; what is referred to has a hash.
    return re.sub(r' id="[A-Za-z.]+(2d)?_\d+"', "", drawn)


def facts(found: Mapping[str, str]) -> str:
    """Returns a list of facts by their names."""
    return "<dl>" + "".join(f"<dt>{text(k)}</dt><dd>{text(v)}</dd>" for k, v in found.items()) + "</dl>"


def text(value: object) -> str:
    return html.escape(str(value))


def words(name: str, start: bool = True) -> str:
    """Returns the name of a metric or a picture as a reader expects it, with a capital at the `start` of a line."""
    first, *rest = (_SPELLED.get(part, part) for part in name.split("_"))
    return " ".join([first[:1].upper() + first[1:] if start and "-" not in first else first, *rest])
