"""InfoVAE, or MMD-VAE: no KL, but the MMD pulls the aggregate posterior toward the prior (Zhao et al. 2019).

    aejax train --config=info_vae --workdir=runs/info_vae

About 56 seconds on two CPU cores; squared error 19.9 a test image, 148 nats.
"""

from aejax import presets
from aejax.config import module, parse_arg


def get_config(arg=""):
    flags = parse_arg(arg, tiny=False)
    config = presets.mlp(module("gaussian", features=16))
    config.objective.weights.mmd = 1_000.0
    config.objective.options.mmd = {"kernel": "rbf"}
    return presets.finish(config, flags.tiny)
