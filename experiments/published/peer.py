"""PyTorch's side of the rows: the same models, schedules and numbers of passes, written as its users write them."""

import math
import time
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


class Gaussian(nn.Module):
    """Two tanh layers, and the mean and the log standard deviation of a Gaussian."""

    def __init__(self, inputs: int, hidden: int, units: int):
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh())
        self.mean, self.log_std = nn.Linear(hidden, units), nn.Linear(hidden, units)

    def forward(self, x):
        h = self.hidden(x)
        return self.mean(h), self.log_std(h)


def log_normal(x, mean, log_std):
    return -(log_std + 0.5 * math.log(2 * math.pi) + 0.5 * ((x - mean) * (-log_std).exp()).square()).sum(-1)


class Burda(nn.Module):
    """The models of Burda et al. 2016, figure 1, of one or more stochastic layers (hidden, units), the lowest first."""

    def __init__(self, layers: Sequence[tuple[int, int]], mean: np.ndarray):
        super().__init__()
        sizes = [mean.size, *(units for _, units in layers)]
        hidden = [hidden for hidden, _ in layers]
        self.q = nn.ModuleList(map(Gaussian, sizes, hidden, sizes[1:]))
        self.p = nn.ModuleList(map(Gaussian, sizes[:1:-1], hidden[:0:-1], sizes[-2:0:-1]))
        first = hidden[0]
        self.logits = nn.Sequential(
            nn.Linear(sizes[1], first), nn.Tanh(), nn.Linear(first, first), nn.Tanh(), nn.Linear(first, sizes[0])
        )
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        p = np.clip(mean.ravel(), 1e-3, 1 - 1e-3)
        with torch.no_grad():
            self.logits[-1].bias.copy_(torch.tensor(np.log(p) - np.log1p(-p)))

    def log_weights(self, x: torch.Tensor, samples: int) -> torch.Tensor:
        """Returns log p(x, z) - log q(z|x) of so many samples, [samples, batch], for binary x [batch, values]."""
        x = x.repeat(samples, 1)
        h, log_q, codes = x, 0.0, []
        for layer in self.q:
            mean, log_std = layer(h)
            h = mean + log_std.exp() * torch.randn_like(mean)
            log_q = log_q + log_normal(h, mean, log_std)
            codes.append(h)
        log_p = log_normal(h, torch.zeros_like(h), torch.zeros_like(h))
        for layer, above, below in zip(self.p, codes[::-1], codes[-2::-1], strict=False):
            log_p = log_p + log_normal(below, *layer(above))
        log_p = log_p - F.binary_cross_entropy_with_logits(self.logits(codes[0]), x, reduction="none").sum(-1)
        return (log_p - log_q).reshape(samples, -1)


def iwae(log_w):
    return (math.log(len(log_w)) - torch.logsumexp(log_w, 0)).mean()


def miwae(log_w, groups):
    return torch.stack([iwae(part) for part in log_w.chunk(groups)]).mean()


def ciwae(log_w, share):
    return share * -log_w.mean() + (1 - share) * iwae(log_w)


def burda(train: np.ndarray, test: np.ndarray, config: dict, rates: np.ndarray, samples: int) -> dict:
    """Trains on images [n, ...] in [0, 1], drawn anew in each step; returns nats of binary test images, and seconds.

    PIWAE trains the generative model by IWAE's bound and the encoder by MIWAE's (Rainforth et al. 2018, section 4).
    """
    bottleneck, batch_size, bound = config["bottleneck"], config["batch_size"], dict(config["objective"]["bound"])
    units, name = np.atleast_1d(bottleneck["features"]).tolist(), bound.pop("name")
    layers = [(200, units[0])] if len(units) == 1 else [(200, units[0]), (100, units[1])]
    torch.manual_seed(config["seed"])
    x = torch.from_numpy(train.reshape(len(train), -1))
    model = Burda(layers, train.mean(0))
    encoder, decoder = list(model.q.parameters()), [*model.p.parameters(), *model.logits.parameters()]
    optimizer = torch.optim.Adam([*encoder, *decoder], eps=1e-4, fused=True)
    begin, order = time.perf_counter(), torch.empty(0)
    for rate in rates.tolist():
        if len(order) < batch_size:
            order = torch.randperm(len(x))
        rows, order = order[:batch_size], order[batch_size:]
        optimizer.param_groups[0]["lr"] = rate
        log_w = model.log_weights(torch.bernoulli(x[rows]), bottleneck["samples"])
        if name == "piwae":
            grads = [
                *torch.autograd.grad(miwae(log_w, bound["groups"]), encoder, retain_graph=True),
                *torch.autograd.grad(iwae(log_w), decoder),
            ]
            for parameter, grad in zip((*encoder, *decoder), grads, strict=True):
                parameter.grad = grad
        else:
            optimizer.zero_grad()
            losses = {"elbo": lambda w: -w.mean(), "iwae": iwae, "miwae": miwae, "ciwae": ciwae}
            losses[name](log_w, **bound).backward()
        optimizer.step()
    seconds = time.perf_counter() - begin
    return {"nats": measure_nats(model, test, samples), "training_seconds": seconds}


@torch.inference_mode()
def measure_nats(model: Burda, images: np.ndarray, samples: int) -> float:
    """Returns the mean of -log p(x) of binary images [n, ...] by importance samples, one image at a time."""
    x = torch.from_numpy(images.reshape(len(images), 1, -1))
    found = [math.log(samples) - torch.logsumexp(model.log_weights(image, samples), 0) for image in x]
    return torch.cat(found).mean().item()
