"""A VAE with the VampPrior, a mixture of the posteriors of 100 learned pseudo-inputs (Tomczak and Welling 2018).

    aejax train --config=vamp_vae --workdir=runs/vamp_vae

About 58 seconds on two CPU cores; squared error 10.1 a test image, 105 nats.

`vamp_vae:mixture` learns a mixture of 100 Gaussians instead.
"""

from aejax import presets
from aejax.config import module, parse_arg


def get_config(arg=""):
    flags = parse_arg(arg, tiny=False, mixture=False)
    prior = "mixture" if flags.mixture else "vamp"
    config = presets.mlp(module("gaussian", features=16, prior=prior, components=100))
    config.objective.weights.kl = 1.0
    return presets.finish(config, flags.tiny)
