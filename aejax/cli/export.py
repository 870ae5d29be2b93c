"""Export of a run as programs for JAX alone: aejax export --workdir=runs/conv --out=programs

`aejax.inference.export` describes the programs and how JAX calls them.
"""

from absl import flags

from aejax.cli import command

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the experiment, or of a published model.", required=True)
_OUT = flags.DEFINE_string("out", None, "Folder to write to.", required=True)
_STEP = flags.DEFINE_string("step", "newest", "Checkpoint: a step, newest, or best (by validation loss).")


def export() -> None:
    folder = command.load(_WORKDIR.value, _STEP.value).export(_OUT.value)
    print(f"{folder}: {', '.join(sorted(p.name for p in folder.iterdir()))}")


def main() -> None:
    command.run(export)
