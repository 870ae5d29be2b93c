"""The pictures of a run, each with a caption or the reason why it is skipped."""

import io
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from aejax.data import Spec
from aejax.errors import InputError
from aejax.evaluation import sparse
from aejax.evaluation.pictures import charts, examples, latents, tiles
from aejax.evaluation.pictures.style import style
from aejax.evaluation.reconstruction import squared_errors
from aejax.evaluation.subject import Skipped, Subject
from aejax.files import inside, local, writable, write_whole
from aejax.inference.trained import TrainedModel
from aejax.workdir import metrics_log

ON_THE_MAP = 2_000  # examples at most
QUANTILES = (0.02, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.98)
STEPS = 10  # of an interpolation


class Picture(NamedTuple):
    """A figure and its caption."""

    figure: Figure
    caption: str


def of_logs(workdir: str | Path) -> Picture | Skipped:
    """Returns the loss curves of a training."""
    history = metrics_log.read(local(workdir))
    if not any("validation/loss" in record for record in history):
        return Skipped("the workdir holds no validation yet")
    return Picture(charts.curves(history), "Each term of the objective over the training steps.")


def save(run: TrainedModel, workdir: str | Path) -> list[Path]:
    """Writes curves.png and reconstructions.png, of the run's own batch, to `workdir/evaluation/<step>/`."""
    folder = writable(inside(local(workdir), "evaluation", str(run.step)))
    pictures = {"curves": of_logs(workdir)}
    if not run.spec.target and (run.inputs.ndim == 2 or not tiles.refuse(run.spec)):  # a run keeps no targets
        pictures["reconstructions"] = Picture(_draw_reconstructions(run.inputs, run.reconstructions, run.spec), "")
    return [as_png(p.figure, folder / f"{name}.png") for name, p in pictures.items() if isinstance(p, Picture)]


def as_png(figure: Figure, file: Path) -> Path:
    """Writes the figure as PNG to the file and returns its path."""
    with style():  # Matplotlib makes the ticks only now
        buffer = io.BytesIO()
        # A figure without a layout engine has its pixels at their places, which cutting off its margins would move.
        placed = figure.get_layout_engine() is None
        how = {"dpi": figure.dpi} if placed else {"dpi": 180, "bbox_inches": "tight"}
        figure.savefig(buffer, format="png", facecolor="white", **how)
    write_whole(file, buffer.getvalue())
    return file


def reconstructions(subject: Subject) -> Picture | Skipped:
    """Draws inputs of the test part, or the targets of a transcoder, and their reconstructions."""
    test, spec = subject.test, subject.run.spec
    if test.wanted.ndim == 2:
        shown = f"{min(500, len(test)):,} examples of {test.name}"
        caption = f"The first coordinates of {shown}, each joined to its reconstruction."
    elif reason := tiles.refuse(spec):
        return reason
    else:
        which = f"with the squared error below: the first, worst and best of {test}."
        over = "Reconstructions over their inputs" if tiles.find_kind(spec) == "sequence" else None
        caption = f"{over or 'Inputs above their reconstructions'}, {which}{tiles.describe(spec)}"
    return Picture(_draw_reconstructions(test.wanted, test.reconstructions, spec), caption)


def _draw_reconstructions(inputs: np.ndarray, outputs: np.ndarray, spec: Spec) -> Figure:
    if inputs.ndim == 2:
        return examples.reconstructions(inputs, outputs)
    errors = squared_errors(inputs, outputs)
    if tiles.find_kind(spec) == "sequence":
        return tiles.draw_reconstructions(inputs, outputs, errors)
    pictures = [tiles.as_tiles(values, spec) for values in (inputs, outputs)]
    return examples.reconstructions(pictures[0], pictures[1], tiles.count_columns(spec), errors)


def error_maps(subject: Subject) -> Picture | Skipped:
    """Draws inputs, reconstructions and absolute errors, pixel by pixel."""
    test, spec = subject.test, subject.run.spec
    if reason := tiles.refuse(spec):
        return reason
    if tiles.find_kind(spec) == "sequence":
        return Skipped("errors of sequences are seen between their curves, in the picture of reconstructions")
    count = min(len(test), examples.MAPPED)
    inputs, outputs = (tiles.as_tiles(part[:count], spec) for part in (test.wanted, test.reconstructions))
    caption = (
        f"The first {count} of {test}: input, reconstruction, and absolute error, the mean over channels. "
        f"A pixel of the images is {examples.enlarge(inputs.shape[1:])}x as large in this picture."
        + tiles.describe(spec)
    )
    return Picture(examples.error_maps(inputs, outputs), caption)


def samples(subject: Subject) -> Picture | Skipped:
    """Draws samples of the model; skipped where it cannot generate."""
    test, spec = subject.test, subject.run.spec
    columns, vectors = tiles.count_columns(spec), test.wanted.ndim == 2
    if not vectors and (reason := tiles.refuse(spec)):
        return reason
    label, num = test.condition, 500 if vectors else 8 * columns
    if label is not None:
        label = np.resize(label, num) if vectors else np.repeat(np.unique(label)[:10], columns)
        num = len(label)
    try:
        drawn = subject.run.generate(num, label=label)
    except InputError as error:  # too few saved latents
        return Skipped(str(error))
    if vectors:
        figure = examples.points(test.wanted, drawn, ("data", "samples"))
        return Picture(figure, "Samples of the model and as many examples, by their first coordinates.")
    rows = [] if label is None else [str(v) for v in label[::columns]]
    how = "not selected" if label is None else "a row for each label"
    return Picture(tiles.draw_rows(drawn, columns, spec, rows), f"Samples of the model, {how}.{tiles.describe(spec)}")


def latent_map(subject: Subject, projection: str = "pca") -> Picture | Skipped:
    """Draws the map of the codes of the test part."""
    part = subject.test.take(ON_THE_MAP)
    if part.flat_latents.shape[1] < 2:
        return Skipped("a code of one unit has no plane")
    if len(part) < 3:
        return Skipped("a map needs at least three examples")
    if (part.latents == part.latents[:1]).all():
        return Skipped("all codes are the same")
    points, names = subject.once(projected, projection)
    colored = "" if part.label is None else ", colored by label"
    return Picture(latents.latent_map(points, names, part.label), f"The codes of {part}{colored}.")


def plane(subject: Subject) -> Picture | Skipped:
    """Draws what a grid over a code of two units decodes to."""
    if subject.test.latents.shape[1:] != (2,):
        return Skipped("the code does not have two units")
    spec = subject.run.spec
    if reason := _refuse_indices(subject) or tiles.refuse(spec):
        return reason
    if tiles.find_kind(spec) == "sequence":
        return Skipped("curves are too small to be read at so many places of a plane")
    codes, first, second = latents.grid(subject.test.latents)
    label, of_label = _choose_label(subject, len(codes))
    figure = latents.plane(tiles.as_tiles(subject.run.decode(codes, label), spec), first, second)
    caption = "What the plane of the codes decodes to, from the 1% to the 99% quantile of each unit"
    return Picture(figure, f"{caption}{of_label}.")


def traversals(subject: Subject) -> Picture | Skipped:
    """Draws what the first example decodes to while one unit at a time varies."""
    spec = subject.run.spec
    if reason := _refuse_indices(subject) or tiles.refuse(spec):
        return reason
    test = subject.test
    if test.latents.ndim > 2:
        return Skipped("a single unit of a spatial code changes almost nothing")
    if subject.run.density.layers[1:]:
        return _traverse_layers(subject)
    codes, units = latents.traversal(test.flat_latents, test.flat_latents[0], QUANTILES)
    label, of_label = _choose_label(subject, codes.shape[0] * codes.shape[1])
    decoded = subject.run.decode(codes.reshape(-1, *test.latents.shape[1:]), label)
    decoded = decoded.reshape(*codes.shape[:2], *decoded.shape[1:])
    figure = tiles.draw([decoded], spec, [f"unit {u + 1}" for u in units], [f"{100 * q:.0f}%" for q in QUANTILES])
    caption = f"One unit at a time takes the values of its quantiles, the most varying unit first{of_label}"
    return Picture(figure, f"{caption}; the other units have the values of the first example.")


def _traverse_layers(subject: Subject) -> Picture:
    """Draws what the first example decodes to while one unit of each layer varies, and the layers below follow it."""
    test, run, varying, names = subject.test, subject.run, [], []
    label, of_label = _choose_label(subject, len(QUANTILES))
    ends = np.cumsum(run.density.layers)
    for layer, (end, size) in enumerate(zip(ends, run.density.layers, strict=True), 1):
        codes = np.repeat(test.flat_latents[:1], len(QUANTILES), 0)
        own = slice(end - size, end)
        varied, units = latents.traversal(test.flat_latents[:, own], test.flat_latents[0, own], QUANTILES, 1)
        codes[:, own] = varied[0]
        varying.append(run.decode(run.complete(codes, layer), label))
        names.append(f"layer {layer}, unit {units[0] + 1}")
    figure = tiles.draw([np.stack(varying)], run.spec, names, [f"{100 * q:.0f}%" for q in QUANTILES])
    caption = (
        f"The most varying unit of each layer takes the values of its quantiles{of_label}; the layers below are at"
    )
    return Picture(
        figure, f"{caption} the prior's means given those above, the layers above those of the first example."
    )


def interpolations(subject: Subject) -> Picture | Skipped:
    """Draws what codes between those of two examples decode to."""
    spec = subject.run.spec
    if reason := _refuse_indices(subject) or tiles.refuse(spec):
        return reason
    test, t = subject.test, np.linspace(0, 1, STEPS)
    pairs = _choose_pairs(test.label, len(test), alike=test.condition is not None)
    if not pairs:
        return Skipped("there are no two examples to interpolate between")
    flat, groups = test.flat_latents, []
    for a, b in pairs:
        codes = np.concatenate([path(flat[a], flat[b], t) for path in latents.PATHS.values()])
        label = None if test.condition is None else np.repeat(test.condition[a], len(codes))
        decoded = subject.run.decode(codes.reshape(-1, *test.latents.shape[1:]), label)
        groups.append(decoded.reshape(len(latents.PATHS), STEPS, *decoded.shape[1:]))
    caption = "What codes between those of two examples decode to: on the straight line, and below on the great circle."
    return Picture(tiles.draw(groups, spec, list(latents.PATHS)), caption)


def usage(subject: Subject) -> Picture | Skipped:
    """Draws how often each discrete code is used."""
    size, test = subject.run.codebook_size, subject.test
    if size is None:
        return Skipped("the code is not discrete")
    indices = subject.run.indices(test.x, test.condition)
    codebooks = getattr(subject.run.model.bottleneck, "codebooks", 0)
    books = indices.reshape(-1, codebooks).T if codebooks else indices.reshape(1, -1)
    counts = [np.sort(np.unique(book, return_counts=True)[1])[::-1] for book in books]
    used = ", ".join(f"{len(c):,}" for c in counts)
    caption = f"How often {test} use each of the {size:,} codes; {used} of them are used."
    return Picture(charts.usage(counts, size), caption)


def activity(subject: Subject) -> Picture | Skipped:
    """Draws the standard deviation of each unit of the code."""
    if reason := _refuse_indices(subject):
        return reason
    gaussian = subject.run.config.bottleneck.name == "gaussian"
    # The threshold of Burda et al. 2016, section 5.1: a variance of 0.01.
    figure = charts.activity(subject.test.flat_latents.std(0), 0.1 if gaussian else None)
    return Picture(figure, f"The standard deviation of each unit of the code over {subject.test}.")


def firing_frequency(subject: Subject) -> Picture | Skipped:
    """Draws how many units fire how often."""
    test = subject.test
    often = sparse.frequencies(test.flat_latents)
    if subject.run.codebook_size is not None or (often == 1).all():
        return Skipped("no unit is ever 0: the code is not sparse")
    dead = np.count_nonzero(often == 0)
    caption = f"How many of {len(often):,} units fire for which fraction of {test}; {dead:,} never fire."
    return Picture(charts.firing_frequency(*sparse.frequency_histogram(often, len(test), 8)), caption)


PICTURES: dict[str, Callable[..., Picture | Skipped]] = {
    "reconstructions": reconstructions,
    "error_maps": error_maps,
    "samples": samples,
    "map": latent_map,
    "plane": plane,
    "traversals": traversals,
    "interpolations": interpolations,
    "usage": usage,
    "activity": activity,
    "firing_frequency": firing_frequency,
}


def draw(subject: Subject, options: Mapping[str, Mapping[str, Any]] = {}) -> Iterator[tuple[str, Picture | Skipped]]:
    """Yields the name of each picture and the picture, or why it is skipped, as soon as it is drawn.

    Args:
      options: arguments of the pictures' functions, e.g. {"map": {"projection": "tsne"}}.
    """
    return ((name, picture(subject, **options.get(name, {}))) for name, picture in PICTURES.items())


def projected(subject: Subject, projection: str) -> tuple[np.ndarray, tuple[str, str]]:
    """Returns the points of the map and the names of its axes, for `subject.once`."""
    return latents.project(subject.test.take(ON_THE_MAP).flat_latents, projection)


def _refuse_indices(subject: Subject) -> Skipped | None:
    return None if subject.run.codebook_size is None else Skipped("a discrete code has no units to vary")


def _choose_label(subject: Subject, count: int) -> tuple[np.ndarray | None, str]:
    """Returns the first example's label, `count` times, and words for the caption; None without a condition."""
    condition = subject.test.condition
    return (None, "") if condition is None else (np.repeat(condition[0], count), f", with label {condition[0]}")


def _choose_pairs(label: np.ndarray | None, number: int, alike: bool, count: int = 4) -> list[tuple[int, int]]:
    """Returns pairs of examples, each used once, with equal labels where `alike`, else with different ones."""
    free = list(range(min(number, 1_000)))
    pairs: list[tuple[int, int]] = []
    while len(free) > 1 and len(pairs) < count:
        a = free.pop(0)
        fits = [b for b in free if label is None or (label[a] == label[b]) == alike]
        if fits:
            pairs.append((a, fits[0]))
            free.remove(fits[0])
    return pairs
