"""Encoding of a split: aejax encode --workdir=runs/conv --split=test --out=latents.npz

Latents are normalized: over the train split, which is measured first, each channel has mean 0 and standard deviation 1.
With --out=codes.csr, only the units that are not 0 are written, to a folder that `aejax.read_sparse` reads.
After an interruption, even by kill -9, the same command resumes. `aejax.read_latents` reads the file, and `run.decode`
restores what it returns. The latents of a published model are normalized by its factors, and its data is named:
--workdir=sd-vae --data.name=FOLDER --data.size=256.
"""

from absl import flags

from aejax.cli import command
from aejax.cli.config_flag import data_flags

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the experiment, or of a published model.", required=True)
_DATA = data_flags()
_OUT = flags.DEFINE_string(
    "out", None, "To write: .npz, .array_record for large sets, .csr for sparse codes.", required=True
)
_SPLIT = flags.DEFINE_string("split", "test", "train, validation, test, or TFDS syntax, e.g. test[:10%].")
_STEP = flags.DEFINE_string("step", "newest", "Checkpoint: a step, newest, or best (by validation loss).")
_CHUNK = flags.DEFINE_integer("chunk", 0, "Examples between two points to resume from. 0: about 32 MiB.")
_NORMALIZE = flags.DEFINE_bool("normalize", True, "Normalize the latents by the run's statistics.")


def encode() -> None:
    from aejax.inference.encode_sparse import SUFFIX

    _encode_sparse() if _OUT.value.rstrip("/").endswith(SUFFIX) else _encode_dense()


def _encode_sparse() -> None:
    from aejax.inference.encode_sparse import check_out, encode_sparse, read_sparse
    from aejax.inference.encode_split import find_split

    out = check_out(_OUT.value)
    run = command.load(_WORKDIR.value, _STEP.value, _DATA())
    source = find_split(run, _SPLIT.value)
    encode_sparse(run, source, out, _CHUNK.value)
    codes = read_sparse(out, slice(0, 1_024))
    units = f"{codes.nnz / codes.shape[0]:.1f} of {codes.shape[1]:,} units each"
    print(f"{out}: {len(source):,} examples of {_SPLIT.value}, {units}, step {run.step:,}")


def _encode_dense() -> None:
    from aejax.inference.encode_split import check_out, encode_split, find_split, read_statistics

    out = check_out(_OUT.value)
    run = command.load(_WORKDIR.value, _STEP.value, _DATA())
    source = find_split(run, _SPLIT.value)
    encode_split(run, source, out, _CHUNK.value, _NORMALIZE.value)
    statistics = read_statistics(out)
    how = f", normalized by {statistics.of}" if statistics else ""
    latents = f"latents {run.latents.shape[1:]}{how}"
    print(f"{out}: {len(source):,} examples of {_SPLIT.value}, {latents}, step {run.step:,}")


def main() -> None:
    command.run(encode)
