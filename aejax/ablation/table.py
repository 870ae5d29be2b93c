"""The table of an ablation: a row for each setting, as text, CSV and LaTeX."""

import csv
import io
import math
import re
from collections.abc import Sequence
from statistics import fmean
from typing import Any, NamedTuple

from aejax.ablation.plan import short
from aejax.ablation.statistics import Difference, better, deviation, difference, direction, mean_interval, redefined
from aejax.ablation.trials import ABSENT, Ablation, Setting, show
from aejax.errors import InputError, one_of

# Metrics that are shown by default, if some run has them.
_USUAL = (
    *("validation/loss", "validation/squared_error", "likelihood/elbo", "reconstruction/psnr"),
    *("representation/linear_probe_accuracy", "disentanglement/mig"),
    *("sparse/f1", "sparse/mcc", "sparse/mean_max_cosine", "sparse/dead_latents"),
)


class Cell(NamedTuple):
    """One metric of one setting.

    Attributes:
      values: the metric by seed.
      mean, deviation: mean and standard deviation over seeds; None if there are too few seeds.
      best: whether the mean is the best of all settings, and no interval of its difference from another includes 0.
      difference: difference from the baseline; None for the baseline itself, if either has no value, or if the metric
        means something else under the two configs.
    """

    values: dict[int, float]
    mean: float | None
    deviation: float | None
    best: bool
    difference: Difference | None


class Row(NamedTuple):
    """A setting and its cells by metric."""

    setting: Setting
    is_baseline: bool
    cells: dict[str, Cell]


def choose_metrics(ablation: Ablation, wanted: Sequence[str] = ()) -> list[str]:
    """Returns the wanted metrics, which default to the usual ones. Raises InputError for one that no run has."""
    known = ablation.metrics
    for name in wanted:
        if name not in known:
            raise one_of("metric", name, known)
    error, loss = "validation/squared_error", "validation/loss"
    same = all(s.of(error) == s.of(loss) for s in ablation.settings)  # a single term equals the loss
    return list(dict.fromkeys(wanted)) or [m for m in _USUAL if m in known and not (same and m == error)]


def choose_baseline(ablation: Ablation, wanted: str = "") -> Setting:
    """Returns the setting that `wanted` names, by one of its runs or by values such as `optim.lr=0.001`.

    Keys that are not given have the values of the default setting, which is the plan's config or else the first
    setting. Raises InputError if there is no such setting.
    """
    first = ablation.default or ablation.settings[0]
    if not wanted:
        return first
    for setting in ablation.settings:
        if wanted in (setting.label, *(t.name for t in setting.trials.values())):
            return setting
    # Splits at the commas before a key, since a value may have commas, too.
    given = dict(part.partition("=")[::2] for part in re.split(r",\s*(?=[\w.]+=)", wanted))
    names = {name: axis for axis, name in short(ablation.axes).items()} | {a: a for a in ablation.axes}
    asked = {names[key]: value for key, value in given.items() if key in names}
    fits = [s for s in ablation.settings if all(_reads(s.values[a], value) for a, value in asked.items())]
    # Names of runs may hold a seed, which does not matter here: a setting has all seeds.
    if len(asked) + ("seed" in given) < len(given) or not asked or not fits:
        labels = "; ".join(s.label for s in ablation.settings[:8])
        raise InputError(f"--baseline={wanted} is no setting; name a run, or one of: {labels}")
    return max(fits, key=lambda s: sum(s.values[a] == first.values[a] for a in ablation.axes))


def _reads(value: Any, text: str) -> bool:
    """Returns whether `text` stands for `value`. Numbers are compared as numbers."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(text) == value
        except ValueError:
            return False
    return text.strip().lower() == show(value).lower()


def tabulate(ablation: Ablation, metrics: Sequence[str], baseline: Setting) -> list[Row]:
    """Returns a row for each setting."""
    means = {m: [fmean(v.values()) for s in ablation.settings if (v := read_finite(s, m))] for m in metrics}
    signs = {m: direction(m, ablation.keys) for m in metrics}
    best = {m: (max if signs[m] > 0 else min)(means[m]) for m in metrics if signs[m] and len(means[m]) > 1}

    def cell(setting: Setting, metric: str) -> Cell:
        values = read_finite(setting, metric)
        mean = fmean(values.values()) if values else None
        changed = [key for key in ablation.keys if setting.config.get(key) != baseline.config.get(key)]
        comparable = setting is not baseline and not redefined(metric, changed)
        from_baseline = difference(values, read_finite(baseline, metric)) if comparable else None
        others = [
            d for s in ablation.settings if s is not setting and (d := difference(values, read_finite(s, metric)))
        ]
        unsure = any(d.low is not None and d.high is not None and d.low <= 0 <= d.high for d in others)
        is_best = mean is not None and mean == best.get(metric) and not unsure
        return Cell(values, mean, deviation(list(values.values())), is_best, from_baseline)

    return [Row(s, s is baseline, {m: cell(s, m) for m in metrics}) for s in ablation.settings]


def read_finite(setting: Setting, metric: str) -> dict[int, float]:
    """Returns the metric by seed, leaving out NaN and infinity."""
    return {seed: v for seed, v in setting.of(metric).items() if math.isfinite(v)}


def write_remarks(ablation: Ablation, metrics: Sequence[str], baseline: Setting, at: str) -> list[str]:
    """Returns the notes that a reader needs to judge the table, one line each."""
    which = {"last": "the last validation", "best": "the validation of the least loss"}[at]
    lines = [
        f"Mean ± standard deviation over seeds, at {which}. Differences are from {baseline.label}, each with a 95% "
        "confidence interval for this comparison alone: among many, some exclude 0 by chance.",
    ]
    for m in metrics:
        if keys := redefined(m, ablation.keys):
            lines.append(
                f"{m} means something else for each {' and '.join(keys)}: its values do not compare, and none is best."
            )
    if not any(baseline.of(m) for m in metrics):
        lines.append(f"The baseline {baseline.label} has no finished run: there are no differences from it.")
    elif all(len(s.trials) < 2 for s in ablation.settings):
        lines.append("There is one seed for each setting, and so no interval: a difference may be chance.")
    return lines


def format_number(value: float, spread: float | None = None) -> str:
    """Formats the value to the second significant digit of its spread, or to four digits without a spread."""
    if not spread:
        return f"{value:.4g}"
    digits = 1 - math.floor(math.log10(spread))
    if -6 <= digits <= 6 and abs(value) < 1e7:
        return f"{round(value, digits):.{max(digits, 0)}f}"
    return f"{value:.4g}"


def format_mean(cell: Cell) -> tuple[str, str]:
    """Formats the mean, or "-" if there is none, and the standard deviation, or "" if there is one seed."""
    if cell.mean is None:
        return "-", ""
    spread = cell.deviation
    return format_number(cell.mean, spread), "" if spread is None else format_number(spread, spread)


def format_mean_interval(cell: Cell) -> str:
    """Formats the confidence interval of the mean, or "" if there is one seed."""
    ends = mean_interval(list(cell.values.values()))
    return "[{}, {}]".format(*(format_number(end, cell.deviation) for end in ends)) if ends else ""


def format_difference(cell: Cell) -> tuple[str, str]:
    """Formats the difference and its interval, each "" if there is none."""
    d = cell.difference
    if d is None:
        return "", ""
    if d.low is None or d.high is None:
        return f"{d.value:+.3g}", ""
    width = (d.high - d.low) / 2
    value, low, high = (format_number(v, width) for v in (d.value, d.low, d.high))
    return value if value.startswith("-") else f"+{value}", f"[{low}, {high}]"


def format_count(setting: Setting, cell: Cell) -> str:
    """Formats the number of runs with a value, e.g. "3", or "2 of 3" if some are missing."""
    return f"{len(cell.values)}" + (f" of {setting.planned}" if len(cell.values) < setting.planned else "")


def as_text(ablation: Ablation, rows: Sequence[Row], bold: bool = False) -> str:
    """Returns a block of lines for each metric. A star marks the best; `bold` also makes it bold in a terminal."""
    names = short(ablation.axes)
    blocks = []
    for metric in rows[0].cells:
        head = [*names.values(), "mean", "", "95% of mean", "n", "difference", "95%", ""]
        lines, stars = [head], [" "]
        for row in rows:
            cell = row.cells[metric]
            mean, spread = format_mean(cell)
            value, interval = format_difference(cell)
            how = "baseline" if row.is_baseline else cell.difference.how if cell.difference else ""
            axes = [show(v) for v in row.setting.values.values()]
            of_mean = [mean, spread and f"± {spread}", format_mean_interval(cell), format_count(row.setting, cell)]
            lines.append([*axes, *of_mean, value, interval, how])
            stars.append("*" if cell.best else " ")
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        left = [*range(len(names)), len(widths) - 1]
        padded = "  ".join(f"{{:{'<' if i in left else '>'}{width}}}" for i, width in enumerate(widths))
        blocks.append(metric + (f" ({words})" if (words := better(metric, ablation.keys)) else ""))
        for star, line in zip(stars, lines, strict=True):
            text = f"{star} {padded.format(*line)}".rstrip()
            blocks.append(f"\033[1m{text}\033[0m" if bold and star == "*" else text)
        blocks.append("")
    return "\n".join(blocks[:-1])


def runs_as_csv(ablation: Ablation) -> str:
    """Returns CSV with a row for each run. `problem` says why a run does not count in the table."""
    metrics = ablation.metrics
    head = ["run", *ablation.axes, "seed", "steps", "problem", *metrics]
    lines = []
    for t in ablation.trials:
        axes = [t.name if a == "run" else _plain(t.config.get(a)) for a in ablation.axes]
        lines.append([t.name, *axes, t.seed, t.steps, t.problem, *(t.metrics.get(m, "") for m in metrics)])
    return _csv(head, lines)


def as_csv(ablation: Ablation, rows: Sequence[Row]) -> str:
    """Returns CSV with a row for each setting and metric, without rounding."""
    head = [*ablation.axes, "metric", "mean", "deviation", "mean_low", "mean_high", "n", "best", "baseline"]
    head += ["difference", "low", "high", "how"]
    lines = []
    for row in rows:
        axes = [_plain(v) for v in row.setting.values.values()]
        for m, cell in row.cells.items():
            d = cell.difference or (None,) * 4
            of_mean = (cell.mean, cell.deviation, *(mean_interval(list(cell.values.values())) or (None, None)))
            lines.append([*axes, m, *of_mean, len(cell.values), cell.best, row.is_baseline, *d])
    return _csv(head, lines)


def _plain(value: Any) -> Any:
    return show(value) if isinstance(value, list) else value


def _csv(head: Sequence[str], lines: Sequence[Sequence[Any]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([[_inert(cell) for cell in line] for line in [head, *lines]])
    return buffer.getvalue()


def _inert(cell: Any) -> Any:
    """Returns the cell, with ' before a text that a spreadsheet would run as a formula. Numbers stay numbers."""
    if not isinstance(cell, str) or not re.match(r"\s*[=+\-@]|[\t\r\n]", cell):
        return cell
    try:
        float(cell)
    except ValueError:
        return cell if cell == ABSENT else f"'{cell}"
    return cell


def as_latex(ablation: Ablation, rows: Sequence[Row]) -> str:
    """Returns a LaTeX tabular for booktabs with means and standard deviations, the best means in bold."""
    metrics = list(rows[0].cells)
    heads = [_tex(n) for n in short(ablation.axes).values()] + [_tex(m) for m in metrics] + ["$n$"]
    lines = [
        r"% \usepackage{booktabs}; mean and standard deviation over n seeds, the best mean in bold",
        rf"\begin{{tabular}}{{{'l' * len(ablation.axes)}{'r' * len(metrics)}r}}",
        r"\toprule",
        " & ".join(heads) + r" \\",
        r"\midrule",
    ]
    for row in rows:
        cells = [_tex(show(v)) for v in row.setting.values.values()]
        for cell in row.cells.values():
            mean, spread = format_mean(cell)
            text = mean + (rf" \pm {spread}" if spread else "")
            cells.append("--" if cell.mean is None else rf"$\mathbf{{{text}}}$" if cell.best else f"${text}$")
        counts = sorted({len(cell.values) for cell in row.cells.values()})
        lines.append(" & ".join([*cells, "--".join(map(str, counts))]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


_TEX = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
}


def _tex(text: str) -> str:
    return "".join(_TEX.get(c, c) for c in text)
