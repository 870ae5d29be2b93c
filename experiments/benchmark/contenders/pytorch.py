"""Plain PyTorch: data in memory as float tensors, a loop over batches, Adam."""

import os

import torch

from experiments.benchmark.contenders import Contender, training
from experiments.benchmark.contenders.torch_models import MLP, VAE, Conv, load
from experiments.benchmark.contenders.torch_vq_vae import VQVAE
from experiments.benchmark.given import Given
from experiments.benchmark.works import Work

MODELS = {"mlp": MLP, "vae": VAE, "conv": Conv, "vq_vae": VQVAE}


def train(work: Work, given: Given, variant: str) -> Contender:
    """`variant`: "eager"; "channels_last"; "compiled", with channels_last, too: it is the faster of both."""
    use_pinned_cores()
    layout = torch.contiguous_format if variant == "eager" else torch.channels_last
    # A clone: of images with one channel, whose layouts differ in strides alone, `contiguous` would return what it got.
    images = torch.from_numpy(given.floats()).movedim(-1, 1).clone(memory_format=layout)
    model = MODELS[work.name](given)
    load(model, given)
    model = model.to(memory_format=layout)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loss_of = torch.compile(model) if variant == "compiled" else model

    def steps(batches: list[torch.Tensor]) -> float:
        losses = []
        for rows in batches:
            optimizer.zero_grad()
            loss = loss_of(images[rows])
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        return torch.stack(losses).mean().item()

    return training(given, work.steps, count(model), lambda rows: list(torch.from_numpy(rows).long()), steps)


def use_pinned_cores() -> None:
    torch.set_num_threads(len(os.sched_getaffinity(0)))


def count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
