"""The works' models in PyTorch. Modules have the names that they have in aejax, so that `load` finds their weights.

Calling a model gives the loss of images x [batch, channels, height, width], summed over values and
averaged over the batch; `decoded(x)` gives the decoder's output and what else the loss reads.
"""

import math
from collections import OrderedDict
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from experiments.benchmark.contenders import Given
from experiments.benchmark.works import SAE_K


def chain(
    name: str, layer: Callable[[int, int], nn.Module], sizes: list[int], behind: nn.Module, last: bool = False
) -> nn.Sequential:
    """Layers of these sizes, what stands `behind` after each, or after each but the `last`."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i, (before, after) in enumerate(pairwise(sizes)):
        layers[name.format(i)] = layer(before, after)
        if not last or i < len(sizes) - 2:
            layers[f"behind_{i}"] = behind
    return nn.Sequential(layers)


def conv(before: int, after: int) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, padding=1)


class MLP(nn.Module):
    """(a)"""

    def __init__(self, given: Given):
        super().__init__()
        encoder, decoder = given.sizes("encoder/dense_{}"), given.sizes("decoder/dense_{}")
        self.encoder = chain("dense_{}", nn.Linear, encoder, nn.GELU(approximate="tanh"))
        self.bottleneck = nn.ModuleDict({"dense": nn.Linear(encoder[-1], decoder[0])})
        self.decoder = chain("dense_{}", nn.Linear, decoder, nn.GELU(approximate="tanh"), last=True)

    def decoded(self, x):
        return self.decoder(self.bottleneck["dense"](self.encoder(x.flatten(1))))

    def forward(self, x):
        return F.mse_loss(self.decoded(x), x.flatten(1), reduction="sum") / len(x)


class VAE(nn.Module):
    """(b)"""

    def __init__(self, given: Given):
        super().__init__()
        encoder, decoder = given.sizes("encoder/dense_{}"), given.sizes("decoder/dense_{}")
        self.encoder = chain("dense_{}", nn.Linear, encoder, nn.ReLU())
        self.bottleneck = nn.ModuleDict({name: nn.Linear(encoder[-1], decoder[0]) for name in ("mean", "log_std")})
        self.decoder = chain("dense_{}", nn.Linear, decoder, nn.ReLU(), last=True)

    def forward(self, x):
        h = self.encoder(x.flatten(1))
        mean, log_std = self.bottleneck["mean"](h), self.bottleneck["log_std"](h)
        logits = self.decoder(mean + log_std.exp() * torch.randn_like(mean))
        error = F.binary_cross_entropy_with_logits(logits, x.flatten(1), reduction="sum")
        kl = 0.5 * (mean.square() + (2 * log_std).exp() - 1 - 2 * log_std).sum()
        return (error + kl) / len(x)


class Burda(nn.Module):
    """(h): each image is drawn anew."""

    def __init__(self, given: Given):
        super().__init__()
        encoder, decoder = given.sizes("encoder/dense_{}"), given.sizes("decoder/dense_{}")
        self.encoder = chain("dense_{}", nn.Linear, encoder, nn.Tanh())
        self.bottleneck = nn.ModuleDict({name: nn.Linear(encoder[-1], decoder[0]) for name in ("mean", "log_std")})
        self.decoder = chain("dense_{}", nn.Linear, decoder, nn.Tanh(), last=True)

    def log_weights(self, x, samples):
        """Returns log p(x, z) - log q(z|x) of so many samples, [batch, samples], for binary x [batch, values].

        Each example is repeated for its samples.
        """
        h = self.encoder(x)
        mean, log_std = (self.bottleneck[name](h).repeat_interleave(samples, 0) for name in ("mean", "log_std"))
        noise = torch.randn_like(mean)
        z = mean + log_std.exp() * noise
        target = x.repeat_interleave(samples, 0)
        log_p = -F.binary_cross_entropy_with_logits(self.decoder(z), target, reduction="none").sum(-1)
        log_prior_over_q = 0.5 * (noise.square() - z.square()).sum(-1) + log_std.sum(-1)
        return (log_p + log_prior_over_q).reshape(len(x), samples)

    def forward(self, x):
        x = torch.bernoulli(x).flatten(1)
        h = self.encoder(x)
        mean, log_std = self.bottleneck["mean"](h), self.bottleneck["log_std"](h)
        logits = self.decoder(mean + log_std.exp() * torch.randn_like(mean))
        error = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        kl = 0.5 * (mean.square() + (2 * log_std).exp() - 1 - 2 * log_std).sum()
        return (error + kl) / len(x)


class Burda50(Burda):
    """(i)"""

    def forward(self, x):
        log_w = self.log_weights(torch.bernoulli(x).flatten(1), 50)
        return (math.log(50) - torch.logsumexp(log_w, 1)).mean()


class SAE(nn.Module):
    """(g)"""

    def __init__(self, given: Given):
        super().__init__()
        size, features = given.weights["params/bottleneck/dense/kernel"].shape
        self.bottleneck = nn.ModuleDict({"dense": nn.Linear(size, features)})
        self.decoder = nn.ModuleDict({"dense_0": nn.Linear(features, size)})

    def kept(self, x):
        h = F.relu(self.bottleneck["dense"](x - self.decoder["dense_0"].bias))
        return h, torch.topk(h, SAE_K, sorted=False)

    def decoded(self, x):
        h, (values, indices) = self.kept(x)
        return self.decoder["dense_0"](torch.zeros_like(h).scatter(-1, indices, values))

    def forward(self, x):
        x = x.movedim(1, -1).flatten(1)
        return F.mse_loss(self.decoded(x), x, reduction="sum") / len(x)


class BaggedSAE(SAE):
    """(g), with a product that reads only the rows of the decoder whose units are kept."""

    def decoded(self, x):
        _, (values, indices) = self.kept(x)
        decoder = self.decoder["dense_0"]
        rows = decoder.weight.T.contiguous()
        return F.embedding_bag(indices, rows, per_sample_weights=values, mode="sum") + decoder.bias


class Conv(nn.Module):
    """(c)"""

    def __init__(self, given: Given):
        super().__init__()
        down, up = given.sizes("encoder/conv_{}"), given.sizes("decoder/conv_{}")
        self.encoder = chain("conv_{}", conv, down, nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)))
        self.bottleneck = chain("conv", conv, [down[-1], up[0]], nn.ReLU())
        self.decoder = chain("conv_{}", conv, up, nn.Sequential(nn.ReLU(), nn.Upsample(scale_factor=2)), last=True)

    def decoded(self, x):
        return self.decoder(self.bottleneck(self.encoder(x)))

    def forward(self, x):
        return F.binary_cross_entropy_with_logits(self.decoded(x), x, reduction="sum") / len(x)


def norm(width: int) -> nn.Sequential:
    return nn.Sequential(OrderedDict(group=nn.GroupNorm(int(np.gcd(32, width)), width, eps=1e-6)))


class Block(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.norm_0, self.conv_0 = norm(width), conv(width, width)
        self.norm_1, self.conv_1 = norm(width), conv(width, width)

    def forward(self, x):
        return x + self.conv_1(F.relu(self.norm_1(self.conv_0(F.relu(self.norm_0(x))))))


class Downsample(nn.Conv2d):
    """Padded as flax pads for stride 2: behind, not in front."""

    def __init__(self, before: int, after: int):
        super().__init__(before, after, 3, 2)

    def forward(self, x):
        return super().forward(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """`ConvTranspose2d(before, after, 4, 2, 1)`, but for a bias of its own for each of the 2 x 2 output phases."""

    def __init__(self, before: int, after: int):
        super().__init__()
        self.conv = nn.Conv2d(before, 4 * after, 2, padding=1)

    def forward(self, x):
        return F.pixel_shuffle(self.conv(x), 2)[:, :, 1:-1, 1:-1]


def load(model: nn.Module, given: Given) -> None:
    """Copies aejax's weights into the modules of the same names."""
    # A kernel [in, out] or [h, w, in, out] to [out, in] or [out, in, h, w].
    turned = {2: (1, 0), 3: (2, 1, 0), 4: (3, 2, 0, 1), 5: (4, 3, 0, 1, 2)}
    with torch.no_grad():
        for name, module in model.named_modules():
            path = "params/" + name.replace(".", "/")
            if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.GroupNorm):
                kernel = given.weights.get(f"{path}/kernel", given.weights.get(f"{path}/scale"))
                bias = given.weights[f"{path}/bias"]
                if path.split("/")[-2].startswith("upsample"):  # channels [2, 2, c] to pixel_shuffle's [c, 2, 2]
                    order = np.arange(len(bias)).reshape(4, -1).T.ravel()
                    kernel, bias = kernel[..., order], bias[order]
                kernel = kernel.transpose(turned.get(kernel.ndim, (0,)))
                module.weight.copy_(torch.tensor(kernel))
                module.bias.copy_(torch.tensor(bias))
