"""Evaluation of a run: aejax evaluate --workdir=runs/conv

The command writes metrics.json, where each figure has its protocol, pictures and report.html to evaluation/<step>/ in
the workdir (evaluation/<step>-<split>/ for a split other than test). It prints the figures, side by side for several
workdirs: --workdir=runs/a,runs/b. The metrics are in groups, all of which are measured unless --groups= names some of
them: reconstruction, fidelity, likelihood, codes, levels, sparse, representation, disentanglement, anomaly, generation.

A published model is measured on data that is named: --workdir=sd-vae --data.name=FOLDER --data.size=256 --out=FOLDER.
"""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags
from tqdm import tqdm

import aejax
from aejax.cli import command
from aejax.cli.config_flag import data_flags
from aejax.files import inside, local, read_json, writable, write_whole

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of an experiment, or several with commas; or of a published model.", required=True
)
_DATA = data_flags()
_GROUPS = flags.DEFINE_list("groups", None, "Groups of metrics. Defaults to all.")
_SPLIT = flags.DEFINE_string("split", "test", "Split to score: train, validation or test.")
_OUT = flags.DEFINE_string("out", "", "Folder to write to. Defaults to evaluation/<step> in the workdir.")
_STEP = flags.DEFINE_string("step", "newest", "Checkpoint: a step, newest, or best (by validation loss).")
_LIMIT = flags.DEFINE_integer("limit", 60_000, "Largest number of examples used from a split.")
_FIGURES = flags.DEFINE_bool("figures", True, "Draw pictures and write report.html.")
_PROJECTION = flags.DEFINE_string("projection", "pca", "Projection for the map of the codes: pca, tsne or umap.")
_SAMPLES = flags.DEFINE_integer("samples", 200, "Importance samples per example for the log-likelihood.")
_ANNEAL = flags.DEFINE_integer("anneal", None, "Steps of annealed importance sampling. Defaults to none of it.")
_CHAINS = flags.DEFINE_integer("chains", 16, "Chains per example of annealed importance sampling.")
_DEQUANTIZE = flags.DEFINE_integer("dequantize", 1, "Draws of uniform noise for the bits per dimension of a density.")
_BINARY_DRAWS = flags.DEFINE_integer("binary_draws", 1, "Binarizations of the split that log p(x) is averaged over.")
_FEATURES = flags.DEFINE_string(
    "features", "encoder", "Features that generation is measured by: encoder, classifier or package.module:function."
)
_NUM = flags.DEFINE_integer("num", 5_000, "Number of generated examples, and of real ones that they are compared with.")
_RFID_FEATURES = flags.DEFINE_string(
    "rfid_features", "", "Features that reconstructions are compared by: package.module:function or run:FOLDER."
)
_NEIGHBOURS = flags.DEFINE_integer("neighbours", 5, "Neighbors of an example, for k-NN accuracy and trustworthiness.")


def measure(workdir: str, run: "aejax.Run", groups: Sequence[str], features: Any) -> dict[str, Any]:
    """Measures one run. Returns the figures as they are written to its metrics.json."""
    from aejax import evaluation
    from aejax.evaluation import pictures, report

    part = "" if _SPLIT.value == "test" else f"-{_SPLIT.value}"
    if _OUT.value:
        folder = writable(local(_OUT.value))
    else:
        folder = writable(inside(local(workdir), "evaluation", f"{run.step}{part}"))
    subject = evaluation.Subject.of(run, split=_SPLIT.value, limit=_LIMIT.value)
    options: dict[str, dict[str, Any]] = {
        "likelihood": counts_of_samples(),
        "representation": {"neighbours": _NEIGHBOURS.value},
        "generation": {"features": _FEATURES.value, "num": _NUM.value},
        "fidelity": {"features": features},
    }
    file = folder / "metrics.json"
    measures, figures = {}, before(file)
    total = len(groups) + _FIGURES.value * (len(pictures.PICTURES) + 1)
    with tqdm(total=total, unit=" parts", desc=workdir, dynamic_ncols=True, disable=None) as bar:
        for name, found in evaluation.evaluate(subject, groups, options):
            measures[name] = found
            figures |= evaluation.as_json({name: found})  # other groups keep the figures of an earlier call
            write_whole(file, json.dumps(figures, indent=2) + "\n")
            bar.update()
        if _FIGURES.value:
            drawn = {"curves": pictures.of_logs(workdir)}
            for name, picture in pictures.draw(subject, {"map": {"projection": _PROJECTION.value}}):
                drawn[name] = picture
                bar.update()
            for name, picture in drawn.items():
                if isinstance(picture, pictures.Picture):
                    pictures.as_png(picture.figure, folder / f"{name}.png")
            bar.write(str(report.write(subject, measures, drawn, folder, _PROJECTION.value)))
            bar.update()
    return evaluation.as_json(measures)


def counts_of_samples() -> dict[str, Any]:
    """Returns the options of the group `likelihood`."""
    return {
        "samples": _SAMPLES.value,
        "anneal": _ANNEAL.value,
        "chains": _CHAINS.value,
        "dequantize": _DEQUANTIZE.value,
        "binary_draws": _BINARY_DRAWS.value,
    }


def find_features() -> Any:
    """Returns what --rfid_features names: a run, or the name of a function."""
    name = _RFID_FEATURES.value
    return command.load(name.removeprefix("run:"), "newest") if name.startswith("run:") else name


def before(file: Path) -> dict[str, Any]:
    """Returns the figures of an earlier call. Warns and returns none if the file is damaged."""
    try:
        return read_json(file) if file.exists() else {}
    except aejax.StorageError as error:
        warnings.warn(f"{error}; its figures are lost, and are measured again where they are asked for", stacklevel=2)
        return {}


def table(figures: dict[str, dict[str, Any]]) -> str:
    """Returns a table with a line for each metric and a column for each workdir, then the skipped metrics and why."""
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
    skipped: dict[str, dict[str, None]] = {}  # the metrics by reason, each metric once
    for found in flat.values():
        for metric, cell in found.items():
            if "skipped" in cell:
                skipped.setdefault(cell["skipped"], {})[metric] = None
    return "\n".join(lines + [f"skipped {', '.join(metrics)}: {reason}" for reason, metrics in skipped.items()])


def evaluate() -> None:
    from aejax import pretrained
    from aejax.evaluation import GROUPS, fidelity, generation, likelihood
    from aejax.evaluation.pictures.latents import check_projection

    likelihood.check(**counts_of_samples())
    generation.check(_FEATURES.value, _NUM.value)
    groups = list(GROUPS) if _GROUPS.value is None else _GROUPS.value
    features = find_features()
    fidelity.check(features, 2)
    workdirs = [_WORKDIR.value] if _WORKDIR.value and local(_WORKDIR.value).is_dir() else _WORKDIR.value.split(",")
    if _OUT.value and len(workdirs) > 1:
        raise aejax.InputError("--out is for one workdir; leave it out, or evaluate them one by one")
    for name, values in (("workdir", workdirs), ("groups", groups)):
        if not all(values) or not values:
            raise aejax.InputError(f"--{name} is empty; name one, or several with commas")
    for workdir in workdirs:
        if not _OUT.value and pretrained.is_published(local(workdir)):
            raise aejax.InputError(f"{workdir} holds a published model, beside which nothing is written; set --out")
    check_projection(_PROJECTION.value)
    # All workdirs are loaded before the first is measured, so that a wrong one costs nothing.
    runs = {workdir: command.load(workdir, _STEP.value, _DATA()) for workdir in workdirs}
    print(table({workdir: measure(workdir, run, groups, features) for workdir, run in runs.items()}))


def main() -> None:
    command.run(evaluate)
