"""Trains a small VQGAN with and without perceptual and adversarial losses: python -m experiments.perceptual

The images are 64x64 crops of the photographs in scikit-image's wheel. Each photograph's right quarter is held out:
PSNR, SSIM and LPIPS are those of crops of it. One run has the losses of `vqgan:gan`, the other the same steps of its
squared error and commitment alone. LPIPS is that of VGG16, which is the loss, too, and that of AlexNet, which neither
run has seen. Writes perceptual.json and perceptual.png, crops side by side, below experiments/results, and the goals of
both figures to goals/tokenizers.json. About 10 minutes on two CPU cores, 8 of them for the first run. Needs
pip install 'aejax[lpips]'.
"""

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import skimage
from absl import flags
from ml_collections import ConfigDict
from PIL import Image

import aejax
from aejax import data
from aejax.cli import command
from aejax.config import module
from aejax.files import local, writable, write_whole
from configs import vqgan
from experiments.benchmark import goals
from experiments.machine import machine

_OUT = flags.DEFINE_string("perceptual_folder", "experiments/results", "Folder to write to.")
_STEPS = flags.DEFINE_integer("steps", 500, "Training steps of each run.")
_CROPS = flags.DEFINE_integer("crops", 8_192, "Number of training crops.")

COMMAND = "python -m experiments.perceptual"
PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "ihc.png", "motorcycle_left.png", "rocket.jpg")
SIDE = 64
_MOST = 1.0  # dB of PSNR that the perceptual losses may cost


def photographs() -> list[np.ndarray]:
    """Returns the color photographs that scikit-image ships, uint8 [height, width, 3]."""
    folder = Path(skimage.__file__).parent / "data"
    return [np.asarray(Image.open(folder / name).convert("RGB")) for name in PHOTOGRAPHS]


def make_splits(count: int, side: int = SIDE) -> data.Splits:
    """Returns `count` random crops of the left parts, half of them mirrored, and all of a grid on the right."""
    rng, train, held_out = np.random.default_rng(0), [], []
    pictures = photographs()
    sizes = np.array([picture.size for picture in pictures])
    for number in rng.choice(len(pictures), count, p=sizes / sizes.sum()):
        height, width = pictures[number].shape[:2]
        top, left = rng.integers(height - side + 1), rng.integers(width * 3 // 4 - side + 1)
        crop = pictures[number][top : top + side, left : left + side]
        train.append(crop[:, ::-1] if rng.random() < 0.5 else crop)
    for picture in pictures:
        height, width = picture.shape[:2]
        for top in range(0, height - side + 1, side):
            held_out += [picture[top : top + side, x : x + side] for x in range(width * 3 // 4, width - side + 1, side)]
    of_train, of_test = (
        data.from_array(np.stack(crops), name=name) for crops, name in ((train, "left"), (held_out, "right"))
    )
    return data.Splits(of_train, of_test, of_test)


def make_config(steps: int, perceptual: bool) -> ConfigDict:
    """Returns `vqgan:gan` for so many steps, without its perceptual and adversarial losses unless `perceptual`."""
    config = vqgan.get_config("gan").unlock()
    config.update({"steps": steps, "checkpoint_every": steps, "log_every": max(steps // 20, 1)})
    if perceptual:
        config.adversary.start = steps * 2 // 5
    else:
        config.adversary = module("none")
        del config.objective.weights["lpips"], config.objective.weights["adversarial"]
        config.objective.options = {}
    return config


def measure(run: aejax.Run, x: np.ndarray) -> dict[str, float]:
    """Returns PSNR, SSIM and LPIPS of the run's reconstructions of x."""
    found = {}
    for network in ("vgg", "alex"):
        measures = run.evaluate(x, groups=["reconstruction"], options={"reconstruction": {"lpips": network}})
        values = measures["reconstruction"]
        found |= {name: round(values[name].value, 4) for name in ("psnr", "ssim")}
        found[f"lpips_{network}"] = round(values["lpips"].value, 4)
    return found


def draw(file: Path, x: np.ndarray, columns: dict[str, np.ndarray], rows: int = 6) -> None:
    """Draws some of the crops x beside their reconstructions, three screen pixels to a pixel."""
    chosen = np.linspace(0, len(x) - 1, rows).astype(int)
    panels = {"held out": x / 255, **columns}
    size = 3 * SIDE / 100
    figure, axes = plt.subplots(rows, len(panels), figsize=(size * len(panels), size * rows + 0.45), dpi=100)
    for axis, (row, (name, images)) in zip(axes.flat, [(r, p) for r in chosen for p in panels.items()], strict=True):
        axis.imshow(np.clip(images[row], 0, 1), interpolation="nearest")
        axis.set_axis_off()
        if row == chosen[0]:
            axis.set_title(name, fontsize=9)
    figure.subplots_adjust(0, 0, 1, 1 - 0.45 / (size * rows + 0.45), 0.02, 0.02)
    figure.savefig(file)
    plt.close(figure)


def perceptual() -> None:
    folder = writable(local(_OUT.value))
    splits = make_splits(_CROPS.value)
    x = data.read(splits.test)["x"]
    found: dict[str, Any] = {"steps": _STEPS.value, "train_crops": _CROPS.value, "held_out_crops": len(x)}
    columns = {}
    for name, losses in (("perceptual", True), ("squared error", False)):
        with tempfile.TemporaryDirectory() as workdir:
            begin = time.perf_counter()
            run = aejax.train(make_config(_STEPS.value, losses), workdir, data=splits)
            found[name] = {"seconds": round(time.perf_counter() - begin), **measure(run, x)}
        columns[f"{name}\nLPIPS {found[name]['lpips_vgg']:.3f}, {found[name]['psnr']:.1f} dB"] = run.reconstruct(x)
        print(json.dumps({name: found[name]}), flush=True)
    draw(folder / "perceptual.png", x, columns)
    found["machine"] = machine()
    write_whole(folder / "perceptual.json", json.dumps(found, indent=1) + "\n")
    ours, plain = found["perceptual"], found["squared error"]
    what = "VQGAN of 64x64 crops with LPIPS and discriminator"
    ratio, cost = ours["lpips_vgg"] / plain["lpips_vgg"], plain["psnr"] - ours["psnr"]
    reached = [
        goals.at_most(f"{what}: LPIPS (VGG16) relative to that of squared error alone", round(ratio, 3), 1.0),
        goals.at_most(f"{what}: dB of PSNR below that of squared error alone", round(cost, 2), _MOST),
    ]
    goals.write(folder, COMMAND, reached, "tokenizers.json")


if __name__ == "__main__":
    command.run(perceptual)
