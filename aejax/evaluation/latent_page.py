"""Pages of the latents of a sparse code, as HTML: what each fires for, its direction and its neighbors."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from aejax.evaluation import truth
from aejax.evaluation.interactive import NUMBERS, sheet
from aejax.evaluation.page import text
from aejax.evaluation.pictures.style import drawable
from aejax.evaluation.pictures.tiles import as_thumbnails, refuse
from aejax.evaluation.sparse import find_directions, frequencies, nearest
from aejax.evaluation.subject import Part, Skipped, Subject

LATENTS, EXAMPLES, COLUMNS, NEIGHBORS, BINS = 24, 8, 4, 5, 24
_EDGE = ((0, 0), (0, 1), (0, 1), (0, 0))  # white pixels that keep images apart
_COMPARED = 10_000  # examples at most
_PIXELS = 56  # height of an image on the screen

RULES = f"""
.latents {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(320px, 1fr)); gap: 16px; }}
.latents h4 {{ font-size: 13px; font-weight: 500; color: var(--muted); margin: 12px 0 4px; }}
.latents svg {{ display: block; width: 100%; height: 72px; }}
.latents img {{ display: block; height: {_PIXELS}px; max-width: 100%; image-rendering: pixelated; border-radius: 4px; }}
.latents p {{ font-size: 14px; margin: 0; }}
.latents a {{ color: var(--link); text-decoration: none; white-space: nowrap; }}
.bars {{ fill: var(--c0); }}
.axis {{ stroke: var(--line); stroke-width: 1; vector-effect: non-scaling-stroke; }}
"""


class Latent(NamedTuple):
    """What is known of one latent.

    Attributes:
      number: from 0.
      frequency: fraction of the examples for which it fires.
      examples: those for which it is largest, the largest first, as their places in the part.
      activations: of these examples.
      counts, edges: histogram of the activations that are not 0.
      neighbors: the latents with the most similar directions, and their cosines.
      direction: what it adds to a reconstruction, [*shape].
      feature: the known feature of the largest cosine, the cosine, and F1 of firing for it; None if none are known.
    """

    number: int
    frequency: float
    examples: np.ndarray
    activations: np.ndarray
    counts: np.ndarray
    edges: np.ndarray
    neighbors: list[tuple[int, float]]
    direction: np.ndarray
    feature: tuple[int, float, float] | None


def describe(part: Part, count: int = LATENTS) -> list[Latent] | Skipped:
    """Returns what is known of `count` latents of a sparse code, evenly spaced from the most frequent to the rarest.

    Skipped if the code is not sparse or its decoder not linear.
    """
    z, run = part.latents, part.run
    if run.codebook_size is not None or z.ndim != 2 or (z != 0).all():
        return Skipped("the code is no sparse vector")
    directions = find_directions(run, z)
    if isinstance(directions, Skipped):
        return directions
    often = frequencies(z)
    alive = np.argsort(-often, kind="stable")[: np.count_nonzero(often)]
    chosen = alive[np.unique(np.linspace(0, len(alive) - 1, min(count, len(alive))).round().astype(int))]
    cosine, which = nearest(directions, min(NEIGHBORS, len(directions) - 1))
    features: list[tuple[int, float, float] | None] = [None] * len(chosen)
    if part.truth is not None and part.target is None:
        similarity = truth.cosines(directions[chosen], part.truth.directions)
        best, active = similarity.argmax(1), part.truth.activations(np.asarray(part.rows))
        scores = (truth.detection(z, active, chosen[[i]], best[[i]]).f1 for i in range(len(chosen)))
        features = [(int(k), float(similarity[i, k]), f1) for i, (k, f1) in enumerate(zip(best, scores, strict=True))]
    found = []
    for number, feature in zip(chosen.tolist(), features, strict=True):
        values = z[:, number]
        order = np.argsort(-values, kind="stable")[:EXAMPLES]
        order = order[values[order] != 0]
        counts, edges = np.histogram(values[values != 0], BINS)
        neighbors = list(zip(which[number].tolist(), cosine[number].tolist(), strict=True))
        direction = directions[number].reshape(part.wanted.shape[1:])
        found.append(
            Latent(number, float(often[number]), order, values[order], counts, edges, neighbors, direction, feature)
        )
    return found


def view(subject: Subject, count: int = LATENTS) -> tuple[str, str] | Skipped:
    """Returns a card for each of `count` latents: CSS rules and HTML."""
    part = subject.test.take(_COMPARED)
    found = describe(part, count)
    if isinstance(found, Skipped):
        return found
    shown = {latent.number for latent in found}
    caption = (
        f"{len(found):,} of the {part.latents.shape[1]:,} latents, evenly spaced from the most frequent to the rarest "
        f"that fires, over {part}. The histogram is that of activations that are not 0."
    )
    cards = "".join(_card(latent, part, shown) for latent in found)
    return RULES, f'<p class="muted">{text(caption)}</p><div class="latents">{cards}</div>'


def _card(latent: Latent, part: Part, shown: set[int]) -> str:
    facts = f"Fires for {latent.frequency:.2%} of the examples."
    if latent.feature is not None:
        number, cosine, f1 = latent.feature
        facts += f" Most like feature {number}: cosine {cosine:.3f}, F1 {f1:.3f}."
    places = [
        (f'<a href="#latent-{n}">latent {n}</a>' if n in shown else f"latent {n}") + f" {cosine:.2f}"
        for n, cosine in latent.neighbors
    ]
    low, high = latent.edges[0], latent.edges[-1]
    sections = {
        f"Activations, {low:.3g} to {high:.3g}": _bars(latent.counts, "Histogram of activations"),
        "Top examples": _examples(latent, part),
        "Direction of the decoder": _direction(latent.direction),
        "Nearest latents, by cosine": f"<p>{', '.join(places)}</p>" if places else "<p>none</p>",
    }
    body = "".join(f"<h4>{text(title)}</h4>{inside}" for title, inside in sections.items())
    title = f"<h3>Latent {latent.number}</h3><p>{text(facts)}</p>"
    return f'<div class="card" id="latent-{latent.number}">{title}{body}</div>'


def _bars(values: Sequence[float] | np.ndarray, name: str) -> str:
    """Returns bars from 0 upward and downward, in a box as wide as there are bars."""
    values = np.asarray(values, np.float64)
    low, high = min(values.min(initial=0), 0), max(values.max(initial=0), 0)
    scale = 100 / ((high - low) or 1)
    zero = high * scale
    boxes = "".join(
        f'<rect x="{i + 0.08:.2f}" y="{zero - max(v, 0) * scale:.2f}" width="0.84" height="{abs(v) * scale:.2f}"/>'
        for i, v in enumerate(values)
        if v
    )
    return (
        f'<svg viewBox="0 0 {len(values)} 100" preserveAspectRatio="none" role="img" aria-label="{text(name)}">'
        f'<g class="bars">{boxes}</g><path class="axis" d="M0 {zero:.2f}H{len(values)}"/></svg>'
    )


def _examples(latent: Latent, part: Part) -> str:
    """Returns the top examples: images side by side, or a line for each with its first values."""
    values = ", ".join(f"{a:.3g}" for a in latent.activations)
    inputs, spec = part.inputs[latent.examples], part.run.spec
    if inputs.ndim > 2 and not refuse(spec):
        small = np.pad(as_thumbnails(inputs, spec), _EDGE, constant_values=1)
        return _image(small, COLUMNS, "Top examples") + f'<p class="muted">{values}</p>'
    numbers = latent.examples if part.rows is None else part.rows[latent.examples]
    several = [f"example {n} ({a:.3g})" for n, a in zip(numbers.tolist(), latent.activations, strict=True)]
    return f"<p>{', '.join(several)}</p>"


def _direction(direction: np.ndarray) -> str:
    """Returns the direction as an image in which gray is 0, or as bars with its largest values."""
    if drawable(direction.shape):
        scale = np.abs(direction).max() or 1.0
        return _image((direction / scale / 2 + 0.5)[None], 1, "Direction of the decoder")
    flat = direction.ravel()
    largest = np.argsort(-np.abs(flat), kind="stable")[: NUMBERS // 2]
    listed = ", ".join(f"{i}: {flat[i]:.3g}" for i in largest.tolist())
    # More bars than pixels would show nothing: the largest of each group stands for it.
    groups = np.array_split(flat, min(len(flat), 128))
    return _bars([g[np.abs(g).argmax()] for g in groups], "Direction of the decoder") + f'<p class="muted">{listed}</p>'


def _image(images: np.ndarray, columns: int, name: str) -> str:
    height = _PIXELS * math.ceil(len(images) / columns)
    return f'<img src="{sheet(images, columns)}" alt="{name}" style="height: {height}px">'
