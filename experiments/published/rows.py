"""The rows of the table of published figures: what is trained, for how long, and what its paper reports.

A new row is one entry of `ROWS`.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

import aejax


@dataclasses.dataclass(frozen=True)
class Row:
    """A figure of a paper, and how ours is measured.

    Attributes:
      config: of configs/, with its argument after a colon.
      measure: of test images: "nats", -log p(x) by importance samples, or "squared_error", summed over values.
      published: the paper's figure; None where there is none.
      source: of the published figure, or why there is none.
      passes: number of passes through the training images by default.
      of_paper: number of passes in the paper.
      changes: of the config, by dotted key.
      samples: importance samples of each test image.
      peer: name of PyTorch's side in `peer.py`; empty without one.
      note: on what differs from the paper.
      folder: name of a folder of published files that the row reads; empty for MNIST.
    """

    config: str
    measure: str
    published: float | None
    source: str
    passes: int
    of_paper: int
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    samples: int = 5_000
    peer: str = ""
    note: str = ""
    folder: str = ""

    def make_config(self, passes: int = 0, examples: int = 60_000, data: Path = Path()) -> ConfigDict:
        """Returns the config that makes so many passes, by default those of the row, through so many examples.

        `data` holds the row's folder.
        """
        config = aejax.load_config(self.config).copy_and_resolve_references().unlock()
        config.update_from_flattened_dict(self.changes)
        if self.folder:
            config.data.name = str(data / self.folder)
        config.steps = (passes or self.passes) * examples // config.batch_size
        return config


_BURDA = "Burda et al. 2016, table 1"
_RAINFORTH = "Rainforth et al. 2018, table 1"
_HINTON = "Hinton and Salakhutdinov 2006, page 506"


def _burda(arg: str, published: float, source: str = _BURDA, passes: int = 40) -> Row:
    return Row(f"burda:{arg}" if arg else "burda", "nats", published, source, passes, 3_280, peer="burda")


def _other(arg: str, folder: str, passes: int) -> Row:
    """Returns a row of binary images for which no paper has a figure of the same training and test images."""
    row = Row(f"burda:{arg}" if arg else "burda", "nats", None, "no paper", passes, 3_280, peer="burda", folder=folder)
    # Omniglot's small parts have no split of their own.
    return row if folder != "omniglot" else dataclasses.replace(row, changes={"data.train": "", "data.validation": ""})


def _deep(**changes: Any) -> Row:
    """Returns a row of 784-1000-500-250-30 with a linear code."""
    usual = {"optim.lr": 1e-3, "optim.warmup": 500, "checkpoint_every": 2_000, "log_every": 500}
    changes = usual | {key.replace("__", "."): value for key, value in changes.items()}
    return Row("stacked:mnist", "squared_error", 3.0, _HINTON, 120, 200, changes, note="GELU and Adam, no RBMs")


def _conv(channels: int) -> Row:
    """Returns a row of `conv` with a code of 7 x 7 positions of so many channels, beside PCA of as many components."""
    changes = {"bottleneck.features": channels, "checkpoint_every": 500, "log_every": 500}
    return Row("conv:mnist", "squared_error", None, "no paper", 5, 0, changes)


ROWS = {
    "vae": _burda("", 86.76),
    "iwae_5": _burda("k5", 85.54),
    "iwae_50": _burda("k50", 84.78, passes=13),
    "two_layers": _burda("two", 85.33),
    "two_layers_5": _burda("two,k5", 83.89),
    "two_layers_50": _burda("two,k50", 82.90, passes=13),
    "miwae": _burda("miwae", 84.97, _RAINFORTH, passes=13),
    "ciwae": _burda("ciwae", 84.57, _RAINFORTH, passes=13),
    "piwae": _burda("piwae", 84.46, _RAINFORTH, passes=13),
    "omniglot": _other("", "omniglot", 400),
    "omniglot_iwae": _other("k5", "omniglot", 400),
    "fashion": _other("", "fashion-mnist", 40),
    "fashion_iwae": _other("k5", "fashion-mnist", 40),
    "ladder": Row("hvae", "nats", 79.09, "Hazami et al. 2022, Efficient-VDVAE, table 3", 40, 0, samples=1_000),
    "deep": _deep(),
    "deep_pretrained": _deep(pretrain__steps=4_000),
    "deep_tied": _deep(decoder__tied=True),
    "conv_4": _conv(4),
    "conv_8": _conv(8),
}
