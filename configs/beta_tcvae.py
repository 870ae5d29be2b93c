"""The beta-TCVAE: the KL is split into three parts, with a weight of 4 on the total correlation (Chen et al. 2018).

    aejax train --config=beta_tcvae --workdir=runs/beta_tcvae

About 60 seconds on two CPU cores; squared error 17.9 a test image, 124 nats.
"""

from aejax import presets
from aejax.config import module, parse_arg


def get_config(arg=""):
    flags = parse_arg(arg, tiny=False)
    config = presets.mlp(module("gaussian", features=16))
    config.objective.weights = {"mutual_information": 1.0, "total_correlation": 4.0, "dimension_kl": 1.0}
    return presets.finish(config, flags.tiny)
