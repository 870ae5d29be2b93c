"""Plain PyTorch: data in memory as float tensors, a loop over batches, Adam."""

import math
import os

import numpy as np
import torch

from experiments.benchmark.contenders import Contender, Given, training
from experiments.benchmark.contenders.torch_axes import ConvAxes
from experiments.benchmark.contenders.torch_models import MLP, SAE, VAE, BaggedSAE, Burda, Burda50, Conv, load
from experiments.benchmark.contenders.torch_vq_vae import VQVAE
from experiments.benchmark.works import Work
from experiments.machine import peak_gib

MODELS = {
    "mlp": MLP,
    "vae": VAE,
    "conv": Conv,
    "vq_vae": VQVAE,
    "sae": SAE,
    "burda": Burda,
    "burda_50": Burda50,
    "conv_axes": ConvAxes,
}
# Series have no layout with the channels last.
LAST = {3: torch.contiguous_format, 4: torch.channels_last, 5: torch.channels_last_3d}


def train(work: Work, given: Given, variant: str) -> Contender:
    """`variant`: "eager"; "channels_last"; "compiled", with channels_last, too: it is the faster of both; "fused Adam",
    channels_last with what `torch.optim.Adam` does faster when it is told to.

    "bag" is for the sparse autoencoder, see `BaggedSAE`.

    "bfloat16" is compiled and in mixed precision, and replays CUDA graphs if "graphs" is added; after "fused" it is not
    compiled. On a GPU where there is one, all of the data on it, too.
    """
    use_pinned_cores()
    torch.set_float32_matmul_precision("high")  # as JAX does what is left of float32 on a GPU
    torch.backends.cudnn.benchmark = True  # as XLA chooses the algorithms of convolutions there
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    layout = torch.contiguous_format if variant in ("eager", "bag") else LAST[given.images.ndim]
    # A clone: of images with one channel, whose layouts differ in strides alone, `contiguous` would return what it got.
    images = torch.from_numpy(given.floats()).movedim(-1, 1).clone(memory_format=layout).to(device)
    model = (BaggedSAE if variant == "bag" else MODELS[work.model])(given)
    load(model, given)
    model = model.to(device, memory_format=layout)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=device.type == "cuda" or "fused" in variant)
    precision = torch.autocast(device.type, torch.bfloat16, enabled="bfloat16" in variant)
    loss_of = model
    if variant.startswith(("compiled", "bfloat16")):
        loss_of = torch.compile(model, mode="reduce-overhead" if variant.endswith("graphs") else None)

    def steps(batches: list[torch.Tensor]) -> float:
        losses = []
        for rows in batches:
            optimizer.zero_grad()
            with precision:
                loss = loss_of(images[rows])
            loss.backward()
            optimizer.step()
            losses.append(loss.detach().clone())  # the next replay of a graph writes its loss to the same place
        return torch.stack(losses).mean().item()

    def prepare(rows: np.ndarray) -> list[torch.Tensor]:
        return list(torch.from_numpy(rows).long().to(device))

    def peak() -> float:
        return round(torch.cuda.max_memory_allocated() / 2**30, 3) if device.type == "cuda" else peak_gib()

    return training(given, work.steps, count(model), prepare, steps, peak)


def evidence(work: Work, given: Given, variant: str) -> Contender:
    """All samples of one image at a time, so that memory stays flat."""
    use_pinned_cores()
    images = torch.from_numpy((given.images >= 128).astype(np.float32)).flatten(1)
    model = Burda(given)
    load(model, given)
    log_weights = torch.compile(model.log_weights) if variant == "compiled" else model.log_weights

    @torch.inference_mode()
    def nats(images: torch.Tensor) -> torch.Tensor:
        found = [torch.logsumexp(log_weights(part, 5_000), 1) for part in images.split(1)]
        return math.log(5_000) - torch.cat(found)

    return Contender(
        count(model), lambda: {"nats of 50 images": nats(images[:50]).mean().item()}, lambda: len(nats(images))
    )


def use_pinned_cores() -> None:
    torch.set_num_threads(len(os.sched_getaffinity(0)))


def count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
