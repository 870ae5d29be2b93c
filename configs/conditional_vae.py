"""The conditional VAE: encoder and decoder are given the digit's label (Sohn et al. 2015).

    python -m experiments.train --config=configs/conditional_vae.py --workdir=runs/conditional_vae

Then `run.generate(10, label=np.arange(10))` draws one image of each digit.
"""

from aejax.config import module, parse_arg
from configs import common


def get_config(arg=""):
    flags = parse_arg(arg, tiny=False)
    config = common.mlp(module("gaussian", features=16))
    config.classes = 10
    config.objective.weights.kl = 1.0
    return common.finish(config, flags.tiny)
