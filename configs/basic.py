"""The basic autoencoder: 3 inputs -> 2 (encoder) -> 3 outputs, linear, on 3-D points near a plane.

    aejax train --config=basic --workdir=runs/basic

About 5 seconds on two CPU cores. It finds the same plane as PCA, so its squared error is that of PCA,
about the variance off the plane: 0.05^2 = 0.0025 a point.
"""

import aejax


def get_config(arg=""):
    flags = aejax.config.parse_arg(arg, tiny=False)
    config = aejax.config.default()
    config.data.name = "plane"
    config.encoder = aejax.config.module("mlp", features=(2,), activation="linear")
    config.bottleneck = aejax.config.module("identity")
    config.decoder = aejax.config.module("mlp")
    config.optim.lr = 3e-2
    config.optim.schedule = "cosine"
    config.steps = 2_000
    if flags.tiny:
        aejax.config.shrink(config)
    return aejax.config.lock(config)
