"""Decoding by the autoencoder of Stable Diffusion, KL f8, compared with diffusers on PyTorch, in float32.

All read the same folder of random weights and decode the same latents, one image at a time, in processes of their own
that take turns; each process decodes images of one size. PyTorch has its layout channels_last, as it is and compiled by
`torch.compile`; the faster one counts. The peak memory is that of the whole process, weights and libraries included;
the smaller one of PyTorch's counts. About 10 minutes on two CPU cores.
"""

import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import aejax
from experiments.benchmark import goals
from experiments.benchmark.contest import ask, present
from experiments.machine import fresh_process, peak_gib

SIZES = (256, 512)
_TOLERANCE = 1e-3  # of the standard deviation of decoded values
Decode = Callable[[np.ndarray], np.ndarray]  # maps latents [n, h, w, c] to images [n, 8h, 8w, 3] in [0, 1]


def kl_decode(rounds: int, sizes: Sequence[int] = SIZES, arg: str = "published") -> dict[str, Any]:
    """Measures seconds per image and peak memory of all contenders at each size, and returns what was found."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        with fresh_process({}) as process:
            down = ask(process, "weights", write_weights, folder, arg)["down"]
        for size in sizes:
            found[f"{size}x{size}"] = _compare(folder, size, down, rounds)
    return {"sizes": found, "goals": [goal for size, of in found.items() for goal in _set_goals(size, of)]}


def write_weights(folder: str, arg: str) -> dict[str, int]:
    """Writes a folder of random weights of configs/kl_f8.py. Returns how much smaller latents are than images."""
    import jax

    from aejax import pretrained
    from configs import kl_f8

    config = kl_f8.get_config(arg)
    size = 2 ** (len(config.encoder.features) - 1)
    model = aejax.models.build(config, (size, size, 3))
    params = jax.jit(model.init)(jax.random.key(0), np.zeros((1, size, size, 3), np.float32))["params"]
    settings = pretrained.describe_model(model, 3)
    pretrained.write(Path(folder), settings, pretrained.to_hub({"params": jax.device_get(params)}, settings))
    return {"down": size}


def _compare(folder: str, size: int, down: int, rounds: int) -> dict[str, Any]:
    """Returns seconds per image by contender and round, their peak memory, and both ratios."""
    names = present("kl_decode", {name: package for name, (package, _) in CONTENDERS.items()})
    z = np.random.default_rng(0).normal(size=(1, size // down, size // down, 4)).astype(np.float32)
    seconds: dict[str, list[float]] = {}
    images, left_out = {}, {}
    with contextlib.ExitStack() as stack:
        children = {name: stack.enter_context(fresh_process({})) for name in names}
        for name in names:
            try:
                images[name] = ask(children[name], name, begin, name, folder, size, z)["image"]
                seconds[name] = []
            except aejax.InputError as error:  # torch.compile needs a compiler, and does not know all systems
                if name != "pytorch, compiled":
                    raise
                left_out[name] = str(error)
        for name, image in images.items():
            if not np.abs(image - images["aejax"]).max() <= _TOLERANCE * images["aejax"].std():
                raise aejax.InputError(f"kl_decode: {name} decodes to another image than aejax; nothing was timed")
        for _ in range(rounds):
            for name in seconds:
                seconds[name].append(round(ask(children[name], name, turn)["seconds"], 4))
        peaks = {name: ask(children[name], name, peak)["peak_gib"] for name in seconds}
    found = {"seconds": seconds, "peak_gib": peaks, **({"left_out": left_out} if left_out else {})}
    if others := [name for name in seconds if name != "aejax"]:
        best = min(others, key=lambda name: statistics.median(seconds[name]))
        ratios = [theirs / ours for theirs, ours in zip(seconds[best], seconds["aejax"], strict=True)]
        memory = peaks["aejax"] / min(peaks[name] for name in others)
        found |= {"best": best, "times_as_fast": round(statistics.median(ratios), 3), "memory": round(memory, 3)}
    return found


def _set_goals(size: str, found: dict[str, Any]) -> list[goals.Goal]:
    if "best" not in found:
        return []
    what = f"decode of KL f8 at {size}, float32"
    return [
        goals.at_least(f"{what}: times as fast as {found['best']}, diffusers", found["times_as_fast"], 1.0),
        goals.at_most(f"{what}: peak memory as a multiple of PyTorch's", found["memory"], 1.0),
    ]


# In the contenders' processes

_current: dict[str, Any] = {}


def begin(name: str, folder: str, size: int, z: np.ndarray) -> dict[str, np.ndarray]:
    """Loads the weights, decodes twice, as programs are compiled at first, and returns the image."""
    decode = CONTENDERS[name][1](folder, size)
    decode(z)
    _current.update(decode=decode, z=z)
    return {"image": decode(z)}


def turn() -> dict[str, float]:
    """Returns the seconds of one image, after one that does not count."""
    decode, z = _current["decode"], _current["z"]
    decode(z)
    start = time.perf_counter()
    decode(z)
    return {"seconds": time.perf_counter() - start}


def peak() -> dict[str, float]:
    """Returns the most memory that this process held."""
    return {"peak_gib": peak_gib()}


def _load_aejax(folder: str, size: int) -> Decode:
    return aejax.load_pretrained(folder, size).decode


def _load_pytorch(folder: str, size: int, compiled: bool = False) -> Decode:
    import torch
    from diffusers import AutoencoderKL

    model = AutoencoderKL.from_pretrained(folder).eval().to(memory_format=torch.channels_last)
    if compiled:
        model.decoder = torch.compile(model.decoder)

    def decode(z: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            latents = torch.from_numpy(z.transpose(0, 3, 1, 2).copy()).contiguous(memory_format=torch.channels_last)
            return model.decode(latents).sample.numpy().transpose(0, 2, 3, 1) / 2 + 0.5

    return decode


def _load_compiled(folder: str, size: int) -> Decode:
    return _load_pytorch(folder, size, compiled=True)


# The package that each needs, and how it loads the folder.
CONTENDERS: dict[str, tuple[str, Callable[[str, int], Decode]]] = {
    "aejax": ("aejax", _load_aejax),
    "pytorch": ("diffusers", _load_pytorch),
    "pytorch, compiled": ("diffusers", _load_compiled),
}
