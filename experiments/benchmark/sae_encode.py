"""Encoding of a store of activations to sparse codes on disk, compared with SAELens on PyTorch, in float32.

All read the same shards of 1,000,000 activations of width 768 in float16, encode them by the same TopK of 16,384 units
with 32 active ones, and write the units that are not 0 as a compressed sparse row matrix. SAELens encodes; the loop
over shards and the writing, which it does not have, are those that its users would write, in chunks of as many
examples. Its codes are dense or, by `use_sparse_activations`, sparse, and its encoder is compiled by `torch.compile`;
the fastest counts. Each works in a process of its own, and they take turns. About 40 minutes a round on two CPU cores.
"""

import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import aejax
from experiments.benchmark import goals
from experiments.benchmark.contest import ask, present
from experiments.machine import fresh_process, peak_gib

EXAMPLES, WIDTH, UNITS, ACTIVE = 1_000_000, 768, 16_384, 32
CHUNK, SHARDS = 4_096, 10
Encode = Callable[[np.ndarray], Any]  # maps activations [n, width] to a sparse matrix [n, units]


def sae_encode(rounds: int, examples: int = EXAMPLES) -> dict[str, Any]:
    """Measures the seconds in which each contender encodes the store, and its memory, and returns what was found."""
    names = present("sae_encode", {name: package for name, (package, _) in CONTENDERS.items()})
    seconds: dict[str, list[float]] = {}
    left_out, peaks = {}, {}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        write_store(Path(folder), examples)
        children = {name: stack.enter_context(fresh_process({})) for name in names}
        units = {}
        for name in names:
            try:
                units[name] = ask(children[name], name, begin, name, folder)["units"]
                seconds[name] = []
            except aejax.InputError as error:  # torch.compile needs a compiler, and does not know all systems
                if name != "sae-lens, compiled":
                    raise
                left_out[name] = str(error)
        for name, found in units.items():
            if not np.allclose(found, units["aejax"], rtol=1e-3, atol=1e-3):
                raise aejax.InputError(f"sae_encode: {name} encodes to other units than aejax; nothing was timed")
        for name in seconds:  # a tenth of the store, after which memory should not grow
            peaks[name] = [ask(children[name], name, turn, name, folder, 1)["peak_gib"]]
        for _ in range(rounds):
            for name, measured in seconds.items():
                answer = ask(children[name], name, turn, name, folder, SHARDS)
                measured.append(round(answer["seconds"], 2))
                peaks[name].append(answer["peak_gib"])
    found = {
        "examples": examples,
        "seconds": seconds,
        "peak_gib": peaks,
        **({"left_out": left_out} if left_out else {}),
    }
    growth = peaks["aejax"][-1] / peaks["aejax"][0]
    reached = [goals.at_most(f"{_WHAT}: peak memory as a multiple of that for a tenth", round(growth, 3), 1.1)]
    if others := [name for name in seconds if name != "aejax"]:
        best = min(others, key=lambda name: statistics.median(seconds[name]))
        ratio = statistics.median(theirs / ours for theirs, ours in zip(seconds[best], seconds["aejax"], strict=True))
        found |= {"best": best, "times_as_fast": round(ratio, 3)}
        reached.insert(0, goals.at_least(f"{_WHAT}: times as fast as {best}", found["times_as_fast"], 2.0))
    return {**found, "goals": reached}


_WHAT = "encode a store of 1 million activations to sparse codes on disk"


def write_store(folder: Path, examples: int) -> None:
    """Writes the shards."""
    x = np.random.default_rng(0).normal(size=(examples // SHARDS, WIDTH)).astype(np.float16)
    for number in range(SHARDS):
        (folder / "store").mkdir(exist_ok=True)
        np.save(folder / "store" / f"{number:02}.npy", np.roll(x, number, 1))


def make_weights() -> dict[str, np.ndarray]:
    """Returns random weights in the layout [inputs, outputs], by their names in SAELens."""
    rng = np.random.default_rng(1)
    decoder = rng.normal(size=(UNITS, WIDTH)).astype(np.float32)
    decoder /= np.linalg.norm(decoder, axis=1, keepdims=True)
    biases = {"b_enc": rng.normal(size=UNITS) / 10, "b_dec": rng.normal(size=WIDTH) / 10}
    return {"W_enc": decoder.T.copy(), "W_dec": decoder, **{k: v.astype(np.float32) for k, v in biases.items()}}


# In the contenders' processes

_current: dict[str, Any] = {}


def begin(name: str, folder: str) -> dict[str, np.ndarray]:
    """Makes the contender, and returns the codes of a few examples, dense."""
    _current["encode"] = CONTENDERS[name][1]()
    x = np.load(Path(folder) / "store/00.npy", mmap_mode="r")[:CHUNK].astype(np.float32)
    return {"units": np.asarray(_current["encode"](x)[:64].todense())}


def turn(name: str, folder: str, shards: int) -> dict[str, float]:
    """Encodes that many shards, and returns the seconds that it took and the most memory so far."""
    with tempfile.TemporaryDirectory() as out:
        files = sorted((Path(folder) / "store").glob("*.npy"))[:shards]
        for file in files:
            file.read_bytes()  # all find the shards in the cache of the system
        start = time.perf_counter()
        if name == "aejax":
            from aejax.data.activations import from_store

            whole = from_store("store", files)
            source = aejax.data.select(whole, "train+validation+test")
            aejax.encode_sparse(_current["run"], source, Path(out) / "codes.csr", CHUNK)
        else:
            _write_parts(map(_current["encode"], _read_parts(files)), Path(out))
        seconds = time.perf_counter() - start
    return {"seconds": seconds, "peak_gib": peak_gib()}


def _read_parts(files: list[Path]) -> Iterator[np.ndarray]:
    for file in files:
        x = np.load(file, mmap_mode="r")
        for i in range(0, len(x), CHUNK):
            yield x[i : i + CHUNK].astype(np.float32)


def _write_parts(parts: Iterator[Any], out: Path) -> None:
    """Appends values, indices and offsets to three files."""
    count = 0
    with contextlib.ExitStack() as stack:
        values, indices, offsets = (stack.enter_context((out / n).open("wb")) for n in ("values", "indices", "offsets"))
        for codes in parts:
            values.write(codes.data.astype(np.float32).data)
            indices.write(codes.indices.astype(np.int32).data)
            offsets.write((codes.indptr[:-1] + count).astype(np.int64).data)
            count += codes.nnz


def _make_aejax() -> Encode:
    import jax

    from aejax import presets
    from aejax.config import module
    from aejax.inference.encode_sparse import encode_parts

    config, weights = presets.mlp(module("topk", features=UNITS, k=ACTIVE), hidden=()), make_weights()
    config.likelihood = module("squared_error")
    spec, zeros = aejax.data.Spec((WIDTH,)), np.zeros((1, WIDTH), np.float32)
    model = aejax.models.build(config, spec.shape)
    variables = jax.device_get(jax.jit(model.init)(jax.random.key(0), zeros))
    variables["params"] = {
        "bottleneck": {"dense": {"kernel": weights["W_enc"], "bias": weights["b_enc"]}},
        "decoder": {"dense_0": {"kernel": weights["W_dec"], "bias": weights["b_dec"]}},
    }
    run = aejax.Run(config, spec, 0, variables, np.zeros((1, UNITS), np.float32), zeros, zeros)
    _current["run"] = run
    return lambda x: next(encode_parts(run, iter([x]), CHUNK, UNITS))


def _make_sae_lens(sparse_activations: bool = False, compiled: bool = False) -> Encode:
    import torch
    from sae_lens import TopKSAE, TopKSAEConfig
    from scipy import sparse

    sae = TopKSAE(TopKSAEConfig(d_in=WIDTH, d_sae=UNITS, k=ACTIVE, apply_b_dec_to_input=True, device="cpu"))
    with torch.no_grad():
        for name, value in make_weights().items():
            getattr(sae, name).copy_(torch.from_numpy(value))
    sae.activation_fn.use_sparse_activations = sparse_activations
    encode_dense = torch.compile(sae.encode) if compiled else sae.encode

    def encode(x: np.ndarray) -> Any:
        with torch.inference_mode():
            code = encode_dense(torch.from_numpy(x))
            if sparse_activations:
                code = code.coalesce()
                codes = sparse.coo_array((code.values().numpy(), code.indices().numpy()), code.shape).tocsr()
                codes.eliminate_zeros()
                return codes
            code = code.to_sparse_csr()
            parts = code.values().numpy(), code.col_indices().numpy(), code.crow_indices().numpy()
            return sparse.csr_array(parts, tuple(code.shape))

    return encode


# The package that each needs, and how it is made.
CONTENDERS: dict[str, tuple[str, Callable[[], Encode]]] = {
    "aejax": ("aejax", _make_aejax),
    "sae-lens": ("sae_lens", _make_sae_lens),
    "sae-lens, sparse activations": ("sae_lens", lambda: _make_sae_lens(sparse_activations=True)),
    "sae-lens, compiled": ("sae_lens", lambda: _make_sae_lens(compiled=True)),
}
