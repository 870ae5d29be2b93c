"""Shows what tiles change: python -m experiments.tiles --weights=../shared/data/taef2

Encodes and decodes a photograph of scikit-image by TAEF2, whole, in tiles without overlap and in overlapping tiles, and
writes experiments/results/tiles.json and tiles.png beside it. About a minute on two CPU cores.
"""

import json
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
from absl import flags
from PIL import Image
from skimage import data

import aejax
from aejax.cli import command
from aejax.files import local, write_whole
from experiments.machine import machine

_OUT = flags.DEFINE_string("out", "experiments/results/tiles.json", "File to write.")
_WEIGHTS = flags.DEFINE_string("weights", "../shared/data/taef2", "Folder of a published autoencoder.")
TILES = {0: 256, 64: 288}  # by their overlap: two by two cover the photograph


def measure_seams(image: np.ndarray, whole: np.ndarray, overlap: int) -> float:
    """Returns the mean jump of `image - whole` where tiles begin and end, over that between all other neighbors."""
    edges = {TILES[overlap] - overlap - 1, TILES[overlap] - 1}  # the first of two neighbors
    at, rest = [], []
    for axis in (1, 2):
        jumps = np.abs(np.diff(image - whole, axis=axis)).mean((0, 3 - axis, 3))
        at += [jumps[edge] for edge in edges]
        rest += [np.delete(jumps, list(edges)).mean()]
    return float(np.mean(at) / np.mean(rest))


def compare() -> None:
    run = aejax.load_pretrained(_WEIGHTS.value)
    photo = data.astronaut()[None]
    whole = run.reconstruct(photo)
    images = {overlap: run.reconstruct(photo, tile=tile, overlap=overlap) for overlap, tile in TILES.items()}
    found = {
        str(overlap): {
            "tile": TILES[overlap],
            "jump_at_seams_over_others": measure_seams(image, whole, overlap),
            "psnr_to_whole": float(-10 * np.log10(np.square(image - whole).mean())),
            "psnr_to_photo": float(-10 * np.log10(np.square(image - photo / 255).mean())),
        }
        for overlap, image in images.items()
    }
    results = {
        "weights": "TAEF2",
        "image": list(photo.shape[1:]),
        "psnr_of_whole_to_photo": float(-10 * np.log10(np.square(whole - photo / 255).mean())),
        "overlap": found,
        "bytes_of_decoding": {str(side): count_bytes(run, side) for side in (256, 2_048)},
        "machine": machine(),
    }
    print(json.dumps(results, indent=2))
    out = local(_OUT.value)
    write_whole(out, json.dumps(results, indent=2) + "\n")
    draw(photo, whole, images, out.with_suffix(".png"))


def count_bytes(run: aejax.Run, side: int) -> int:
    """Returns the memory that decoding to one image of a side needs, beside parameters, code and image."""
    small = side * run.latents.shape[1] // run.spec.shape[0]
    z = jax.ShapeDtypeStruct((1, small, small, run.latents.shape[-1]), np.float32)
    decode = jax.jit(lambda variables, z: run.model.apply(variables, z, method="decode"))
    return decode.lower(run.variables, z).compile().memory_analysis().temp_size_in_bytes


def draw(photo: np.ndarray, whole: np.ndarray, images: dict[int, np.ndarray], file: Path) -> None:
    """Draws a part around the corner where four tiles meet, and the differences from the whole below."""
    part = (0, slice(128, 384), slice(128, 384))
    figure, axes = plt.subplots(2, 3, figsize=(9.6, 6.6), dpi=80, layout="constrained")
    pictures = {"photograph": photo / 255, "decoded whole": whole}
    columns = [(pictures, axes[:, 0])]
    for (overlap, image), ax in zip(images.items(), axes.T[1:], strict=True):
        title = f"in tiles of {TILES[overlap]}, overlap {overlap}"
        columns.append(({title: image, "4 times the difference from the whole": 0.5 + 4 * (image - whole)}, ax))
    for shown, column in columns:
        for (title, image), ax in zip(shown.items(), column, strict=True):
            ax.imshow(image[part].clip(0, 1))
            ax.set_title(title)
            ax.set_axis_off()
    figure.canvas.draw()
    Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3]).quantize(256).save(file, optimize=True)


if __name__ == "__main__":
    command.run(compare)
