"""Random weights of LPIPS and what the package lpips computes with them: python -m tests.perceptual.lpips_cases

With torch, torchvision and lpips 0.1.4 installed this writes references.npz. Weights and images are not stored: they
are drawn anew.
"""

import itertools
from pathlib import Path

import numpy as np

FILE = Path(__file__).parent / "references.npz"
_VGG = (3, *(64,) * 2, *(128,) * 2, *(256,) * 3, *(512,) * 6)
LAYERS = {
    "alex": ((3, 64, 11), (64, 192, 5), (192, 384, 3), (384, 256, 3), (256, 256, 3)),
    "vgg": tuple((a, b, 3) for a, b in itertools.pairwise(_VGG)),
}
LINEAR = {"alex": (64, 192, 384, 256, 256), "vgg": (64, 128, 256, 512, 512)}
SHAPES = {"alex": ((2, 31, 40), (1, 64, 47)), "vgg": ((2, 16, 23), (1, 33, 20))}


def draw(network):
    """Returns kernels [height, width, in, out] and biases of the convolutions, and the weights of the features."""
    rng = np.random.default_rng(len(network))
    convolutions = [
        (
            rng.standard_normal((k, k, a, b), np.float32) * np.float32(2 / (k * k * a)) ** 0.5,
            rng.random(b, np.float32) / 5,
        )
        for a, b, k in LAYERS[network]
    ]
    return convolutions, [rng.random(n, np.float32) for n in LINEAR[network]]


def variables(network):
    """Returns the random weights as variables of `aejax.perceptual.LPIPS`."""
    convolutions, linear = draw(network)
    backbone = {f"conv_{i}": {"kernel": kernel, "bias": bias} for i, (kernel, bias) in enumerate(convolutions)}
    return {"params": {"backbone": backbone, **{f"linear_{i}": weights for i, weights in enumerate(linear)}}}


def images(shape):
    """Returns two batches of images [batch, height, width, 3] that differ a little."""
    rng = np.random.default_rng(sum(shape))
    x = rng.random((*shape, 3), np.float32)
    return x, np.clip(x + 0.2 * rng.standard_normal(x.shape, np.float32), 0, 1)


def reference(network, module, x, y):
    """Returns the distances of torch's module with the random weights, and the gradient of their sum by y."""
    import torch

    convolutions, linear = draw(network)
    layers = [layer for layer in module.net.modules() if isinstance(layer, torch.nn.Conv2d)]
    with torch.no_grad():
        for layer, (kernel, bias) in zip(layers, convolutions, strict=True):
            layer.weight.copy_(torch.tensor(kernel.transpose(3, 2, 0, 1).copy()))
            layer.bias.copy_(torch.tensor(bias))
        for layer, weights in zip(module.lins, linear, strict=True):
            layer.model[-1].weight.copy_(torch.tensor(weights).reshape(1, -1, 1, 1))
    x, y = (torch.tensor(a.transpose(0, 3, 1, 2).copy()) for a in (x, y))
    distance = module(x, y.requires_grad_(), normalize=True).reshape(-1)
    distance.sum().backward()
    return distance.detach().numpy(), y.grad.numpy().transpose(0, 2, 3, 1)


def main():
    import lpips

    found = {}
    for network, shapes in SHAPES.items():
        module = lpips.LPIPS(net=network, pnet_rand=True, verbose=False)
        for shape in shapes:
            distance, gradient = reference(network, module, *images(shape))
            name = f"{network} {shape[1]}x{shape[2]}"
            found[f"{name} distance"], found[f"{name} gradient"] = distance, gradient.astype(np.float32)
    np.savez_compressed(FILE, **found)


if __name__ == "__main__":
    main()
