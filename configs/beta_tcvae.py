"""The beta-TCVAE: a KL in three parts, with the total correlation weighted by 4 (Chen et al. 2018).

    python -m experiments.train --config=configs/beta_tcvae.py --workdir=runs/beta_tcvae

About 60 seconds on two CPU cores; squared error 17.9 a test image, 124 nats.
"""

from aejax.config import module, parse_arg
from configs import common


def get_config(arg=""):
    flags = parse_arg(arg, tiny=False)
    config = common.mlp(module("gaussian", features=16))
    config.objective.weights = {"mutual_information": 1.0, "total_correlation": 4.0, "dimension_kl": 1.0}
    return common.finish(config, flags.tiny)
