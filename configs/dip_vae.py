"""DIP-VAE-I: the covariance of the posterior means is pulled toward the identity (Kumar et al. 2018).

    aejax train --config=dip_vae --workdir=runs/dip_vae

About 36 seconds on two CPU cores; squared error 12.4 a test image, 116 nats.

`dip_vae:ii` does the same with the covariance of the codes (DIP-VAE-II).
"""

from aejax import presets
from aejax.config import module, parse_arg


def get_config(arg=""):
    flags = parse_arg(arg, tiny=False, ii=False)
    config = presets.mlp(module("gaussian", features=16))
    config.objective.weights = {"kl": 1.0, "dip": 10.0}
    config.objective.options.dip = {"kind": 2, "diagonal": 1.0} if flags.ii else {"kind": 1, "diagonal": 10.0}
    return presets.finish(config, flags.tiny)
