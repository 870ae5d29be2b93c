"""Which pictures there are of a run, and what each shows."""

import io
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from aejax.errors import InputError
from aejax.evaluation.pictures import charts, examples, latents
from aejax.evaluation.pictures.style import drawable, style
from aejax.evaluation.subject import Skipped, Subject
from aejax.files import inside, local, writable, write_whole
from aejax.inference.run import Run
from aejax.workdir import metrics_log

ON_THE_MAP = 2_000  # examples
QUANTILES = (0.02, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.98)
STEPS = 10  # of an interpolation


class Picture(NamedTuple):
    """A figure, and what it shows in one sentence."""

    figure: Figure
    caption: str


def of_logs(workdir: str | Path) -> Picture | Skipped:
    """The loss curves of a training."""
    history = metrics_log.read(local(workdir))
    if not any("validation/loss" in record for record in history):
        return Skipped("the workdir holds no validation yet")
    return Picture(charts.curves(history), "Each term of the objective over the training steps.")


def save(run: Run, workdir: str | Path) -> list[Path]:
    """Writes curves.png and reconstructions.png, of the run's own batch, to `workdir/evaluation/<step>/`."""
    folder = writable(inside(local(workdir), "evaluation", str(run.step)))
    pictures = {"curves": of_logs(workdir)}
    if run.inputs.ndim == 2 or drawable(run.spec.shape):
        pictures["reconstructions"] = Picture(examples.reconstructions(run.inputs, run.reconstructions), "")
    return [as_png(p.figure, folder / f"{name}.png") for name, p in pictures.items() if isinstance(p, Picture)]


def as_png(figure: Figure, file: Path) -> Path:
    with style():  # ticks are made only now
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=180, bbox_inches="tight", facecolor="white")
    write_whole(file, buffer.getvalue())
    return file


def reconstructions(subject: Subject) -> Picture | Skipped:
    test = subject.test
    if test.inputs.ndim == 2:
        caption = f"Each input and its reconstruction in their first coordinates, the first 500 of {test}."
    elif drawable(test.inputs.shape[1:]):
        caption = f"Inputs above their reconstructions, squared error below: first, worst and best of {test}."
    else:
        return _no_image(subject) or Skipped("nothing to show")
    return Picture(examples.reconstructions(test.inputs, test.reconstructions), caption)


def samples(subject: Subject) -> Picture | Skipped:
    try:
        return _samples(subject)
    except InputError as error:  # too few saved latents
        return Skipped(str(error))


def _samples(subject: Subject) -> Picture | Skipped:
    run, test = subject.run, subject.test
    if test.inputs.ndim == 2:
        drawn = run.generate(500, label=_first(test.condition, 500))
        figure = examples.points(test.inputs, drawn, ("data", "samples"))
        return Picture(figure, "Samples of the model beside as many examples, in their first coordinates.")
    if reason := _no_image(subject):
        return reason
    rows, columns = 8, examples.COLUMNS
    if test.condition is None:
        return Picture(examples.samples(run.generate(rows * columns)), "Samples of the model, none of them chosen.")
    label = np.unique(test.condition)[:10]
    drawn = run.generate(len(label) * columns, label=np.repeat(label, columns))
    return Picture(examples.samples(drawn, rows=[str(v) for v in label]), "Samples of the model, a row for each label.")


def latent_map(subject: Subject, projection: str = "pca") -> Picture | Skipped:
    if reason := no_map(subject):
        return reason
    points, names = subject.once(projected, projection)
    part = subject.test.take(ON_THE_MAP)
    coloured = "" if part.label is None else ", coloured by label"
    return Picture(latents.latent_map(points, names, part.label), f"The codes of {part}{coloured}.")


def plane(subject: Subject) -> Picture | Skipped:
    if subject.test.latents.shape[1:] != (2,):
        return Skipped("the code is not a plane of two numbers")
    if reason := _no_units(subject) or _no_image(subject):
        return reason
    codes, first, second = latents.grid(subject.test.latents)
    label, of_label = _one_label(subject, len(codes))
    figure = latents.plane(subject.run.decode(codes, label), first, second)
    return Picture(figure, f"What the plane of the codes decodes to, from 1% to 99% of each unit{of_label}.")


def traversals(subject: Subject) -> Picture | Skipped:
    if reason := _no_units(subject) or _no_image(subject):
        return reason
    test = subject.test
    if test.latents.ndim > 2:
        return Skipped("one number of a spatial code changes next to nothing")
    codes, units = latents.traversal(test.flat_latents, test.flat_latents[0], QUANTILES)
    label, of_label = _one_label(subject, codes.shape[0] * codes.shape[1])
    images = subject.run.decode(codes.reshape(-1, *test.latents.shape[1:]), label)
    figure = latents.traversals(images.reshape(*codes.shape[:2], *images.shape[1:]), units, QUANTILES)
    caption = f"One unit at a time moves through its quantiles, the most varying unit first{of_label}"
    return Picture(figure, f"{caption}; all others stay at the first example's code.")


def interpolations(subject: Subject) -> Picture | Skipped:
    if reason := _no_units(subject) or _no_image(subject):
        return reason
    test, t = subject.test, np.linspace(0, 1, STEPS)
    pairs = _pairs(test.label, len(test), alike=test.condition is not None)
    if not pairs:
        return Skipped("one example alone has nothing to go to")
    flat, tiles = test.flat_latents, []
    for a, b in pairs:
        codes = np.concatenate([path(flat[a], flat[b], t) for path in latents.PATHS.values()])
        label = None if test.condition is None else np.repeat(test.condition[a], len(codes))
        images = subject.run.decode(codes.reshape(-1, *test.latents.shape[1:]), label)
        tiles.append(images.reshape(len(latents.PATHS), STEPS, *images.shape[1:]))
    caption = "Between the reconstructions of two examples: codes on the straight line, and below on the great circle."
    return Picture(latents.interpolations(tiles), caption)


def usage(subject: Subject) -> Picture | Skipped:
    size, test = subject.run.codebook_size, subject.test
    if size is None:
        return Skipped("the code is not discrete")
    indices = subject.run.indices(test.x, test.condition)
    several = indices.ndim == test.latents.ndim  # a residual code has a last axis of books
    books = indices.reshape(-1, indices.shape[-1]).T if several else indices.reshape(1, -1)
    counts = [np.sort(np.unique(book, return_counts=True)[1])[::-1] for book in books]
    used = ", ".join(f"{len(c):,}" for c in counts)
    caption = f"How often {test} use each of the {size:,} codes; in use: {used}."
    return Picture(charts.usage(counts, size), caption)


def activity(subject: Subject) -> Picture | Skipped:
    if reason := _no_units(subject):
        return reason
    gaussian = subject.run.config.bottleneck.name == "gaussian"
    # The threshold of Burda et al. 2016, section 5.1: a variance of 0.01.
    figure = charts.activity(subject.test.flat_latents.std(0), 0.1 if gaussian else None)
    return Picture(figure, f"How much each unit of the code varies over {subject.test}.")


PICTURES: dict[str, Callable[..., Picture | Skipped]] = {
    "reconstructions": reconstructions,
    "samples": samples,
    "map": latent_map,
    "plane": plane,
    "traversals": traversals,
    "interpolations": interpolations,
    "usage": usage,
    "activity": activity,
}


def draw(subject: Subject, options: Mapping[str, Mapping[str, Any]] = {}) -> Iterator[tuple[str, Picture | Skipped]]:
    """Each picture's name and the picture, or why there is none, as soon as it is there.

    `options` of a picture are arguments of its function, e.g. {"map": {"projection": "tsne"}}.
    """
    return ((name, picture(subject, **options.get(name, {}))) for name, picture in PICTURES.items())


def no_map(subject: Subject) -> Skipped | None:
    """Why the codes have no map, if so."""
    if subject.test.flat_latents.shape[1] < 2:
        return Skipped("a code of one number has no plane")
    if len(subject.test) < 3:
        return Skipped("a map needs at least three examples")
    codes = subject.test.take(ON_THE_MAP).flat_latents
    return Skipped("all codes are the same") if (codes == codes[:1]).all() else None


def projected(subject: Subject, projection: str) -> tuple[np.ndarray, tuple[str, str]]:
    """The points of the map, for `subject.once`."""
    return latents.project(subject.test.take(ON_THE_MAP).flat_latents, projection)


def _no_image(subject: Subject) -> Skipped | None:
    shape = subject.test.inputs.shape[1:]
    return None if drawable(shape) else Skipped(f"examples of {shape} are no images of 1 or 3 channels")


def _no_units(subject: Subject) -> Skipped | None:
    return Skipped("a discrete code has no units to move along") if _discrete(subject) else None


def _discrete(subject: Subject) -> bool:
    return subject.run.codebook_size is not None


def _first(label: np.ndarray | None, count: int) -> np.ndarray | None:
    return None if label is None else np.resize(label, count)


def _one_label(subject: Subject, count: int) -> tuple[np.ndarray | None, str]:
    """The first example's label, as often as needed, and words for the caption; none where none is read."""
    condition = subject.test.condition
    return (None, "") if condition is None else (np.repeat(condition[0], count), f", with label {condition[0]}")


def _pairs(label: np.ndarray | None, number: int, alike: bool, count: int = 4) -> list[tuple[int, int]]:
    """Pairs of examples, in their order: each example once, of unlike labels, or of like ones for conditional runs."""
    free = list(range(min(number, 1_000)))
    pairs: list[tuple[int, int]] = []
    while len(free) > 1 and len(pairs) < count:
        a = free.pop(0)
        fits = [b for b in free if label is None or (label[a] == label[b]) == alike]
        if fits:
            pairs.append((a, fits[0]))
            free.remove(fits[0])
    return pairs
