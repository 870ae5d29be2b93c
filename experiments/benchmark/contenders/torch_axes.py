"""(k) and (l) in PyTorch: the convolutional autoencoder of `torch_models` over one axis or three."""

import functools

import torch.nn.functional as F
from torch import nn

from experiments.benchmark.contenders import Given
from experiments.benchmark.contenders.torch_models import chain


class ConvAxes(nn.Module):
    def __init__(self, given: Given):
        super().__init__()
        axes = given.weights["params/encoder/conv_0/kernel"].ndim - 2
        conv = functools.partial({1: nn.Conv1d, 3: nn.Conv3d}[axes], kernel_size=3, padding=1)
        pool = {1: nn.MaxPool1d, 3: nn.MaxPool3d}[axes](2)
        down, up = given.sizes("encoder/conv_{}"), given.sizes("decoder/conv_{}")
        self.encoder = chain("conv_{}", conv, down, nn.Sequential(nn.ReLU(), pool))
        self.bottleneck = chain("conv", conv, [down[-1], up[0]], nn.ReLU())
        self.decoder = chain("conv_{}", conv, up, nn.Sequential(nn.ReLU(), nn.Upsample(scale_factor=2)), last=True)

    def decoded(self, x):
        return self.decoder(self.bottleneck(self.encoder(x)))

    def forward(self, x):
        return F.mse_loss(self.decoded(x), x, reduction="sum") / len(x)
