"""Comparison of runs, e.g. of a sweep: aejax compare runs/ablation

The arguments are folders of workdirs, or workdirs: aejax compare runs/vae runs/beta_vae. Runs that differ only in their
seed are one setting. The command prints a table and writes table.csv (a row for each setting and metric), runs.csv (a
row for each run), table.tex, report.html and the pictures as PNG to compare/ in the first folder.
"""

import sys

from absl import flags

import aejax
from aejax.cli import command
from aejax.errors import printable
from aejax.files import file_name, inside, local, writable, write_whole

_METRICS = flags.DEFINE_list(
    "metrics", [], "E.g. validation/loss,likelihood/elbo. Defaults to the usual metrics that the runs have."
)
_AT = flags.DEFINE_enum(
    "at", "last", ["last", "best"], "Which validation: the last one, or the one with the lowest loss."
)
_BASELINE = flags.DEFINE_string(
    "baseline", "", "Run, or values such as optim.lr=0.001. Defaults to the sweep's config, or to the first setting."
)
_OUT = flags.DEFINE_string("out", "", "Folder to write to. Defaults to compare/ in the first folder.")


def compare(folders: list[str]) -> None:
    if not folders:
        raise aejax.InputError("no folder is given; write aejax compare FOLDER")
    from aejax import ablation
    from aejax.ablation import page, pictures, table
    from aejax.evaluation.pictures import Picture, as_png

    found = ablation.collect(folders, _AT.value)
    metrics = table.choose_metrics(found, _METRICS.value)
    baseline = table.choose_baseline(found, _BASELINE.value)
    out = writable(local(_OUT.value) if _OUT.value else inside(local(folders[0]), "compare"))
    rows = table.tabulate(found, metrics, baseline)
    remarks = table.write_remarks(found, metrics, baseline, _AT.value)
    drawn = pictures.draw(found, rows)
    title = printable("Comparison of " + ", ".join(local(f).absolute().name for f in folders))
    texts = {
        "table.csv": table.as_csv(found, rows),
        "runs.csv": table.runs_as_csv(found),
        "table.tex": table.as_latex(found, rows),
        "report.html": page.page(found, rows, drawn, remarks, title),
    }
    for name, text in texts.items():
        write_whole(out / name, text)
    for name, picture in drawn.items():
        if isinstance(picture, Picture):
            as_png(picture.figure, out / f"{file_name(name)}.png")
    print(table.as_text(found, rows, sys.stdout.isatty()))
    print(*["", *remarks, *found.notes, out / "report.html"], sep="\n")


def main() -> None:
    command.run(compare, positional=True)
