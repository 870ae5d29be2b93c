"""Export of functions of a batch, of any size, to files that need neither aejax nor Flax.

Each program is one file in the format of `jax.export`: StableHLO, with its parameters inside, lowered for CPU, CUDA and
TPU. JAX alone loads it on each of these, and promises to load it in later versions for six months:

    program = jax.export.deserialize(bytearray(Path("encoder.stablehlo").read_bytes()))
    z = program.call(x)
"""

import datetime
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax import export

from aejax.files import local, writable, write_whole

DESCRIPTION = "programs.json"
PLATFORMS = ("cpu", "cuda", "tpu")


class Value(NamedTuple):
    """An input or the output of a program.

    Attributes:
      shape: of one example, without the batch.
      meaning: its units, in a few words.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    meaning: str


class Program(NamedTuple):
    """A function of one batch, `function(*inputs)`, with its inputs and its output."""

    function: Callable[..., Any]
    inputs: Sequence[Value]
    output: Value


def write(folder: str | Path, programs: Mapping[str, Program], about: Mapping[str, Any]) -> Path:
    """Writes `<name>.stablehlo` for each program, and programs.json with shapes, units, date, usage and `about`.

    Returns the folder. Raises StorageError if it cannot be written, before anything is lowered.
    """
    folder = writable(local(folder))
    description: dict[str, Any] = {
        **about,
        "format": f"jax.export of jax {jax.__version__}",
        "written": datetime.date.today().isoformat(),  # later versions of JAX refuse programs that are too old
        "platforms": PLATFORMS,
        "how_to_call": "jax.export.deserialize(bytearray(open(file, 'rb').read())).call(*inputs)",
        "programs": {},
    }
    for name, program in programs.items():
        file = folder / f"{name}.stablehlo"
        write_whole(file, bytes(lower(program).serialize()))
        description["programs"][name] = {
            "file": file.name,
            "inputs": [_describe(value) for value in program.inputs],
            "output": _describe(program.output),
        }
    write_whole(folder / DESCRIPTION, json.dumps(description, indent=2) + "\n")
    return folder


def lower(program: Program) -> export.Exported:
    """Lowers the program for batches of any size."""
    (batch,) = export.symbolic_shape("batch")
    inputs = [jax.ShapeDtypeStruct((batch, *value.shape), value.dtype) for value in program.inputs]
    return export.export(jax.jit(program.function), platforms=PLATFORMS)(*inputs)


def _describe(value: Value) -> dict[str, Any]:
    return {**value._asdict(), "shape": ["batch", *value.shape]}
