"""How fast aejax is: python -m experiments.benchmark

Compares it with its peers on the works of `works.py`; those that are installed take part (pip install -e '.[bench]').
Prints a table, and writes it as speed.md and all figures as speed.json to experiments/results. A run of some
works leaves the others' figures there as they are:

    python -m experiments.benchmark --work=mlp,conv --rounds=3

On CPUs with instructions for bfloat16, --work=mlp_bfloat16,conv_bfloat16,vq_vae_bfloat16 compares it with autocast.

The machine should have nothing else to do: where it had, the table says so. `taskset` chooses the cores.

--work=decoding compares the streaming of JPEGs with grain's and PyTorch's, streaming that of a folder with PyTorch's,
kl_decode the decoding of Stable Diffusion's latents with diffusers, and sae_encode the encoding of a store of
activations with SAELens; folder, loop, evaluation, growth, imports, profile, startup or together measure aejax alone.
See `decoding.py`, `kl_decode.py`, `sae_encode.py`, `loop.py`, `commands.py`, `growth.py` and `profile.py`. Each writes
<work>.json. Those with goals write whether they are reached: streaming and kl_decode to goals/tokenizers.json,
sae and sae_encode to goals/sae.json, burda, importance_weighted and evidence to goals/likelihoods.json, conv1d and
conv3d to goals/anydata.json, others to goals/speed.json. Needs MNIST (TFDS_DATA_DIR, or it is downloaded).
"""

import json
import os
from pathlib import Path

import jax
from absl import flags

import aejax
from aejax.cli import command
from aejax.evaluation.pictures import as_png
from aejax.files import local, read_json, writable, write_whole
from experiments.benchmark import commands, goals, report
from experiments.benchmark.contest import contest
from experiments.benchmark.decoding import decoding, folder, streaming
from experiments.benchmark.growth import growth, plot
from experiments.benchmark.kl_decode import kl_decode
from experiments.benchmark.loop import loop
from experiments.benchmark.profile import profile
from experiments.benchmark.sae_encode import sae_encode
from experiments.benchmark.works import AXES, LIKELIHOODS, ON_ACCELERATOR, ON_CPU, WORKS
from experiments.machine import machine

_OWN = {
    "decoding": decoding,
    "folder": folder,
    "loop": loop,
    "evaluation": commands.evaluation,
    "growth": growth,
    "imports": commands.imports,
    "kl_decode": kl_decode,
    "profile": profile,
    "sae_encode": sae_encode,
    "startup": commands.startup,
    "streaming": streaming,
    "together": commands.together,
}

_PEERS = {
    "decoding": ("torch",),
    "streaming": ("torch",),
    "kl_decode": ("torch", "diffusers"),
    "sae_encode": ("torch", "sae_lens"),
}
# Files of goals other than speed.json.
_GOALS = {
    **dict.fromkeys(("kl_decode", "streaming"), "tokenizers.json"),
    **dict.fromkeys(("sae", "sae_encode"), "sae.json"),
    **dict.fromkeys(LIKELIHOODS, "likelihoods.json"),
    **dict.fromkeys(AXES, "anydata.json"),
}

_WORK = flags.DEFINE_list(
    "work", [], f"What to measure: of {', '.join([*_OWN, *WORKS])}; defaults to the backend's works with peers."
)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Times that each takes its turn.", lower_bound=1)
_OUT = flags.DEFINE_string("out", "experiments/results", "Folder of the figures; of an accelerator, in one below.")


def benchmark() -> None:
    for work in _WORK.value:
        if work not in (*_OWN, *WORKS):
            raise aejax.errors.one_of("--work", work, (*_OWN, *WORKS))
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # this process and its contenders share a GPU
    cores, backend = len(os.sched_getaffinity(0)), jax.default_backend()
    out = writable(local(_OUT.value) / ("" if backend == "cpu" else backend))
    for work in _WORK.value or (ON_CPU if backend == "cpu" else ON_ACCELERATOR):
        if work in _OWN:
            found = _OWN[work](_ROUNDS.value)
            if reached := found.pop("goals", []):
                goals.write(
                    out, f"python -m experiments.benchmark --work={work}", reached, _GOALS.get(work, "speed.json")
                )
            results = {"machine": machine(_PEERS.get(work, ())), **found}
            print(json.dumps(results))
            _write(out / f"{work}.json", results)
            if work == "growth":
                as_png(plot(results), out / "growth.png")
        else:
            found = report.summary(WORKS[work], contest(WORKS[work], _ROUNDS.value), cores)
            entry = {"machine": machine(("torch", "pythae", "keras")), **found}
            print(report.table({work: entry}))
            _add(out, work, entry)
            reached = [
                goals.at_least(f"{entry['what']}: times as fast as {of['best']}", of["ratio"], of["goal"])
                for of in entry["peers"].values()
                if "goal" in of
            ]
            goals.write(out, f"python -m experiments.benchmark --work={work}", reached, _GOALS.get(work, "speed.json"))


def _add(folder: Path, work: str, entry: dict) -> None:
    """Replaces the entry of this work, and keeps the others."""
    file = folder / "speed.json"
    results = (read_json(file) if file.exists() else {}) | {work: entry}
    _write(file, {name: results[name] for name in WORKS if name in results})
    profile = folder / "profile.json"
    write_whole(folder / "speed.md", report.text(results, read_json(profile) if profile.exists() else {}))


def _write(file: Path, results: dict) -> None:
    write_whole(file, json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    command.run(benchmark)
