"""(d) in PyTorch: `torch_models` with residual blocks and a codebook that follows by moving averages."""

from collections import OrderedDict
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from experiments.benchmark.contenders import Given
from experiments.benchmark.contenders.torch_models import Block, Downsample, Upsample, conv, norm


def encoder(sizes: list[int]) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i, (before, after) in enumerate(pairwise(sizes)):
        layers |= {f"downsample_{i}": Downsample(before, after), f"block_{i}_0": Block(after)}
    return nn.Sequential(layers | {"norm": norm(sizes[-1]), "relu": nn.ReLU()})


def decoder(features: int, sizes: list[int]) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict(conv=conv(features, sizes[0]))
    for i, (width, after) in enumerate(pairwise(sizes)):
        layers[f"block_{i}_0"] = Block(width)
        if i == len(sizes) - 2:
            layers |= {"norm": norm(width), "relu": nn.ReLU()}
        layers[f"upsample_{i}"] = Upsample(width, after)
    return nn.Sequential(layers)


class Quantizer(nn.Module):
    decay, smoothing = 0.99, 1e-7

    def __init__(self, width: int, codes: int, features: int):
        super().__init__()
        self.dense = nn.Linear(width, features)
        self.register_buffer("shares", torch.zeros(codes))
        self.register_buffer("sums", torch.zeros(codes, features))

    def forward(self, h):
        """h [b, c, h, w] to codes [b, features, h, w] and their squared distance from the features, summed."""
        with torch.autocast(h.device.type, enabled=False):  # aejax's bottlenecks are in float32, too
            return self.quantized(h.float())

    def quantized(self, h):
        x = self.dense(h.movedim(1, -1))
        codes = len(self.shares)
        total = self.shares.sum()
        smooth = (self.shares + self.smoothing) / (total + codes * self.smoothing) * total
        table = self.sums / smooth[:, None]
        flat = x.detach().flatten(0, -2)
        indices = (table.square().sum(1) - 2 * flat @ table.T).argmin(1)
        e = table[indices].view_as(x)
        if self.training:
            member = F.one_hot(indices, codes).float()
            self.shares.lerp_(member.mean(0), 1 - self.decay)
            self.sums.lerp_(member.T @ flat / len(flat), 1 - self.decay)
        return (x + (e - x).detach()).movedim(-1, 1), (x - e).square().sum()


class VQVAE(nn.Module):
    def __init__(self, given: Given):
        super().__init__()
        down, up = given.sizes("encoder/downsample_{}"), given.sizes("decoder/upsample_{}/conv")
        codes, features = given.weights["codebook/bottleneck/codebook/sums"].shape
        self.encoder = encoder(down)
        self.bottleneck = Quantizer(down[-1], codes, features)
        for name in ("shares", "sums"):
            book = given.weights[f"codebook/bottleneck/codebook/{name}"]
            self.bottleneck.get_buffer(name).copy_(torch.tensor(book))
        self.decoder = decoder(features, [up[0], *(phases // 4 for phases in up[1:])])

    def decoded(self, x):
        z, distance = self.bottleneck(self.encoder(x))
        return self.decoder(z), distance

    def forward(self, x):
        decoded, distance = self.decoded(x)
        return (F.mse_loss(decoded, x, reduction="sum") + 0.25 * distance) / len(x)
