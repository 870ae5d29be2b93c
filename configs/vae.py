"""The variational autoencoder: 784-512-256-16 (Kingma and Welling 2014).

    aejax train --config=vae --workdir=runs/vae

About 39 seconds on two CPU cores; squared error 9.9 a test image, 108 nats.

Options: `vae:sigma` for a Gaussian likelihood with the optimal variance (Rybkin et al. 2021).
"""

from aejax import presets
from aejax.config import module, parse_arg


def get_config(arg=""):
    flags = parse_arg(arg, tiny=False, sigma=False)
    config = presets.mlp(module("gaussian", features=16))
    config.objective.weights.kl = 1.0
    if flags.sigma:
        config.likelihood = module("gaussian", variance="optimal")
    return presets.finish(config, flags.tiny)


def search(trial):
    """Suggests learning rate, width and code size for the lowest validation loss: aejax search.

    The KL weight is not searched, as it is part of the loss, which the lowest weight would win.
    """
    width = trial.suggest_categorical("width", [256, 512])
    return {
        "optim.lr": trial.suggest_float("lr", 1e-4, 1e-2, log=True),
        "encoder.features": (width, width // 2),
        "bottleneck.features": trial.suggest_int("code", 4, 64, log=True),
        "decoder.features": (width // 2, width),
    }
