"""The convolutional autoencoder of the textbooks, 28x28x1 -> 7x7x256 -> 28x28x1, without flattening.

    aejax train --config=conv --workdir=runs/conv

trains on scikit-learn's digits (8x8, enlarged to 28x28): about 75 seconds on two CPU cores, squared
error 0.8 a validation image. On MNIST, if TFDS has it or can download it:

    aejax train --config=conv:mnist --workdir=runs/conv_mnist

About 112 seconds on two CPU cores; squared error 2.3 a test image. As in the textbooks, the
code is larger than the input, and a warning says so.
"""

import aejax


def get_config(arg=""):
    flags = aejax.config.parse_arg(arg, tiny=False, mnist=False)
    config = aejax.config.default()
    config.data.name = "mnist" if flags.mnist else "digits"
    config.data.size = 0 if flags.mnist else 28
    config.encoder = aejax.config.module("conv", features=(64, 128))
    config.bottleneck = aejax.config.module("conv", features=256)
    config.decoder = aejax.config.module("conv", features=(128, 64))
    config.likelihood.name = "bernoulli"
    config.steps, config.checkpoint_every = (400, 200) if flags.mnist else (200, 50)
    config.log_every = 10
    if flags.tiny:
        config.data.name, config.data.size = "digits", 0
        config.encoder.features, config.bottleneck.features, config.decoder.features = (4, 8), 8, (8, 4)
        aejax.config.shrink(config)
    return aejax.config.lock(config)
