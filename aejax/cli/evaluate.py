"""Tells how good a run is: aejax evaluate --workdir=runs/conv

Writes metrics.json, each figure with its protocol, pictures and report.html into evaluation/<step>/ of the
workdir (evaluation/<step>-<split>/ where the split is not test). Several workdirs, --workdir=runs/a,runs/b, are
also printed side by side.
"""

import json
import warnings
from pathlib import Path
from typing import Any

from absl import flags
from tqdm import tqdm

import aejax
from aejax import evaluation
from aejax.cli import command
from aejax.evaluation import generation, likelihood, pictures, report
from aejax.evaluation.evaluate import as_json
from aejax.evaluation.pictures.latents import PROJECTIONS, check_projection
from aejax.storage import inside, local, read_json, writable, write_whole

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of an experiment, or several with commas.", required=True)
_GROUPS = flags.DEFINE_list("groups", list(evaluation.GROUPS), f"Among: {', '.join(evaluation.GROUPS)}.")
_SPLIT = flags.DEFINE_string("split", "test", "Split to score: train, validation or test.")
_OUT = flags.DEFINE_string("out", "", "Folder to write; evaluation/<step> in the workdir unless told.")
_STEP = flags.DEFINE_string("step", "newest", "Checkpoint: a step, newest, or best (by validation loss).")
_LIMIT = flags.DEFINE_integer("limit", 60_000, "Examples of a split that are used at most.")
_FIGURES = flags.DEFINE_bool("figures", True, "Draw pictures and write report.html.")
_PROJECTION = flags.DEFINE_enum("projection", "pca", PROJECTIONS, "Of the map of the codes.")
_SAMPLES = flags.DEFINE_integer("samples", 200, "Importance samples of each example, for the log-likelihood.")
_FEATURES = flags.DEFINE_string(
    "features", "encoder", "For generation: encoder, classifier or package.module:function."
)
_NUM = flags.DEFINE_integer("num", 5_000, "Examples to generate, and to compare with.")
_NEIGHBOURS = flags.DEFINE_integer("neighbours", 5, "Of an example, for k-NN accuracy and trustworthiness.")


def measure(workdir: str, run: aejax.Run) -> dict[str, Any]:
    """The figures of one workdir, as they are written to its metrics.json."""
    part = "" if _SPLIT.value == "test" else f"-{_SPLIT.value}"
    if _OUT.value:
        folder = writable(local(_OUT.value))
    else:
        folder = writable(inside(local(workdir), "evaluation", f"{run.step}{part}"))
    subject = evaluation.Subject.of(run, split=_SPLIT.value, limit=_LIMIT.value)
    options: dict[str, dict[str, Any]] = {
        "likelihood": {"samples": _SAMPLES.value},
        "representation": {"neighbours": _NEIGHBOURS.value},
        "generation": {"features": _FEATURES.value, "num": _NUM.value},
    }
    file = folder / "metrics.json"
    measures, figures = {}, before(file)
    total = len(_GROUPS.value) + _FIGURES.value * (len(pictures.PICTURES) + 1)
    with tqdm(total=total, unit=" parts", desc=workdir, dynamic_ncols=True, disable=None) as bar:
        for name, found in evaluation.evaluate(subject, _GROUPS.value, options):
            measures[name] = found
            figures |= as_json({name: found})  # groups that an earlier call measured stay
            write_whole(file, json.dumps(figures, indent=2) + "\n")
            bar.update()
        if _FIGURES.value:
            drawn = {"curves": pictures.of_logs(workdir)}
            for name, picture in pictures.draw(subject, {"map": {"projection": _PROJECTION.value}}):
                drawn[name] = picture
                bar.update()
            bar.write(str(publish(subject, measures, drawn, folder)))
            bar.update()
    return as_json(measures)


def before(file: Path) -> dict[str, Any]:
    """Returns what an earlier call measured; nothing, with a warning, where the file is damaged."""
    try:
        return read_json(file) if file.exists() else {}
    except aejax.StorageError as error:
        warnings.warn(f"{error}; what it held is lost, and measured again where it is asked for", stacklevel=2)
        return {}


def publish(
    subject: evaluation.Subject,
    measures: dict[str, evaluation.Measures],
    drawn: dict[str, pictures.Picture | evaluation.Skipped],
    folder: Path,
) -> Path:
    """Writes each picture as PNG, and the report, whose path it returns."""
    for name, picture in drawn.items():
        if isinstance(picture, pictures.Picture):
            pictures.as_png(picture.figure, folder / f"{name}.png")
    return report.write(subject, measures, drawn, folder, _PROJECTION.value)


def table(figures: dict[str, dict[str, Any]]) -> str:
    """A line for each metric, a column for each workdir; then what was skipped, and why."""
    flat = {w: {f"{g}/{name}": m for g, ms in f.items() for name, m in ms.items()} for w, f in figures.items()}
    metrics = dict.fromkeys(metric for found in flat.values() for metric in found)
    shown = [m for m in metrics if any("value" in found.get(m, {}) for found in flat.values())]
    first = max(map(len, shown), default=0)
    widths = {w: max(len(w), 10) for w in flat}
    lines = [" " * first + "".join(f"  {w:>{n}}" for w, n in widths.items())]
    for metric in shown:
        cells = {w: found.get(metric, {}).get("value") for w, found in flat.items()}
        columns = (f"  {'-' if v is None else f'{v:.5g}':>{widths[w]}}" for w, v in cells.items())
        lines.append(f"{metric:<{first}}" + "".join(columns))
    skipped: dict[str, dict[str, None]] = {}  # by reason, each metric once
    for found in flat.values():
        for metric, cell in found.items():
            if "skipped" in cell:
                skipped.setdefault(cell["skipped"], {})[metric] = None
    return "\n".join(lines + [f"skipped {', '.join(metrics)}: {reason}" for reason, metrics in skipped.items()])


def evaluate() -> None:
    likelihood.check_samples(_SAMPLES.value)
    generation.check(_FEATURES.value, _NUM.value)
    workdirs = [_WORKDIR.value] if _WORKDIR.value and local(_WORKDIR.value).is_dir() else _WORKDIR.value.split(",")
    if _OUT.value and len(workdirs) > 1:
        raise aejax.InputError("--out is for one workdir; leave it out, or evaluate them one by one")
    for name, values in (("workdir", workdirs), ("groups", _GROUPS.value)):
        if not all(values) or not values:
            raise aejax.InputError(f"--{name} is empty; name one, or several with commas")
    check_projection(_PROJECTION.value)
    # All are there before the first is measured.
    runs = {workdir: command.load(workdir, _STEP.value) for workdir in workdirs}
    print(table({workdir: measure(workdir, run) for workdir, run in runs.items()}))


def main() -> None:
    command.run(evaluate)
