"""VAE-GAN: the reconstruction error is measured in features of a discriminator, which also makes samples look
real (Larsen et al. 2016).

    aejax train --config=vae_gan --workdir=runs/vae_gan

About 76 seconds on two CPU cores; squared error 34.0 a test image, 212 nats.
"""

from aejax import presets
from aejax.config import module, parse_arg


def get_config(arg=""):
    flags = parse_arg(arg, tiny=False)
    config = presets.mlp(module("gaussian", features=16))
    config.objective.weights = {"reconstruction": 0.0, "kl": 1.0, "feature_error": 1.0, "adversarial": 1.0}
    config.adversary = module("vae_gan", features=(16, 32), lr=2e-4)
    presets.shorten(config, 600)
    return presets.finish(config, flags.tiny)
