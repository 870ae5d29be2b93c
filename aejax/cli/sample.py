"""Generation of new examples: aejax sample --workdir=runs/vae --num=64 --out=samples.png

Samples come from the model's own prior (if it has none, from the saved latents) or from a sampler:
--sampler=gaussian, mixture, flow, or autoregressive for discrete codes. The first call fits the sampler to the codes of
the train split and keeps it in the workdir, in samplers/<step>/<sampler>. --prior=transformer names a sampler with its
options. An --out that ends in .npz gets arrays, one that ends in .png a picture.
"""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags

import aejax
from aejax.cli import command
from aejax.cli.config_flag import config_flag
from aejax.errors import one_of
from aejax.files import local, replacing, writable

TABLES = (".csv", ".parquet")

if TYPE_CHECKING:
    from aejax import Run

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the experiment.", required=True)
_NUM = flags.DEFINE_integer("num", 64, "Number of examples.")
_OUT = flags.DEFINE_string(
    "out",
    None,
    "File to write: .png, or .npz with `samples` and, if any, `label`; .csv or .parquet of a table.",
    required=True,
)
_SAMPLER = flags.DEFINE_string("sampler", None, "prior (the default) or a sampler.")
_PRIOR = config_flag(
    "prior", "Config of a sampler: a name, e.g. transformer, or a file of your own.", "priors", required=False
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the samples.")
_LABEL = flags.DEFINE_integer("label", None, "Label, for a conditional run. Defaults to all labels in turn.")
_TEMPERATURE = flags.DEFINE_list(
    "temperature",
    ["1"],
    "Factor of the prior's standard deviations; of a hierarchy also one for each layer, e.g. 1,0.8.",
)
_STEP = flags.DEFINE_string("step", "newest", "Checkpoint: a step, newest, or best (by validation loss).")


def section() -> dict[str, Any] | None:
    """Returns the name and options of the sampler that the flags ask for, or None for the model's prior."""
    from aejax import samplers

    config = {} if _PRIOR.value is None else _PRIOR.value.to_dict()
    name = _SAMPLER.value or config.get("name", "prior")
    if name not in ("prior", *samplers.SAMPLERS):
        raise one_of("sampler", name, ["prior", *samplers.SAMPLERS])
    if config and name != config.get("name"):
        raise aejax.InputError(f"--prior holds {config.get('name')!r}, not the sampler {name!r}; leave one of them out")
    return None if name == "prior" else {**config, "name": name}


def write(out: Path, run: "Run", drawn: Any, label: np.ndarray | None) -> None:
    """Writes a table, arrays, or a picture: a square grid of examples, or vectors as points over those of the data."""
    from aejax.evaluation.pictures import as_png, examples, tiles

    if out.suffix in TABLES:
        with replacing(out) as file:
            getattr(drawn, f"to_{out.suffix[1:]}")(file, index=False)
    elif out.suffix == ".npz":
        arrays: dict[str, Any] = {"samples": drawn} if label is None else {"samples": drawn, "label": label}
        with replacing(out) as file:
            np.savez(file, **arrays)
    elif drawn.ndim == 2:
        as_png(examples.points(run.inputs, drawn, ("data", "samples")), out)
    else:
        as_png(tiles.draw_rows(drawn, math.ceil(math.sqrt(len(drawn))), run.spec), out)


def sample() -> None:
    num, out, workdir = _NUM.value, local(_OUT.value), local(_WORKDIR.value)
    if num < 1:
        raise aejax.InputError(f"--num must be at least 1, got {num}")
    if out.suffix not in (".png", ".npz", *TABLES) or out.is_dir():
        raise aejax.InputError(
            f"--out={out} must be a file that ends in .png or .npz, or, of a table, .csv or .parquet"
        )
    try:
        temperatures = [float(t) for t in _TEMPERATURE.value]
    except ValueError as error:
        raise aejax.InputError(
            f"--temperature must be numbers with commas, got {','.join(_TEMPERATURE.value)}"
        ) from error
    temperature = temperatures[0] if len(temperatures) == 1 else temperatures
    wanted = section()
    from aejax import pretrained, samplers
    from aejax.evaluation.pictures import tiles
    from aejax.inference import sampling

    writable(out.parent)
    if pretrained.is_published(workdir):
        raise aejax.InputError(
            f"{workdir} holds a published model, which does not generate by itself; fit a sampler to its latents in "
            "Python: run.generate(n, sampler=aejax.samplers.fit(...))"
        )
    run = command.load(workdir, _STEP.value)
    if out.suffix == ".png" and len(run.spec.shape) > 1 and (reason := tiles.refuse(run.spec)):
        raise aejax.InputError(f"{reason.reason}; write them to an .npz")
    if out.suffix in TABLES and not run.spec.columns:
        raise aejax.InputError(f"--out={out} is a table, and the run was trained on none; write them to an .npz")
    label = sampling.choose_labels(run, num, _LABEL.value)
    sampler = None
    if wanted:
        samplers.check_kind(wanted["name"], run.codebook_size is not None)
        sampler = sampling.load_or_fit(run, workdir, **wanted)
    made = run if out.suffix in TABLES else run.in_numbers
    write(out, run, made.generate(num, _SEED.value, label, sampler, temperature), label)
    print(out)


def main() -> None:
    command.run(sample)
