"""VAE-GAN: a VAE whose reconstruction error is measured in the features of a discriminator (Larsen et al. 2016).

The discriminator also trains the decoder to make its samples look real.

    python -m experiments.train --config=configs/vae_gan.py --workdir=runs/vae_gan

About 76 seconds on two CPU cores; squared error 34.0 a test image, 212 nats.
"""

from aejax.config import module, parse_arg
from configs import common


def get_config(arg=""):
    flags = parse_arg(arg, tiny=False)
    config = common.mlp(module("gaussian", features=16))
    config.objective.weights = {"reconstruction": 0.0, "kl": 1.0, "feature_error": 1.0, "adversarial": 1.0}
    config.adversary = module("vae_gan", features=(16, 32), lr=2e-4)
    common.shorten(config, 600)
    return common.finish(config, flags.tiny)
