"""The stacked autoencoder: 5 -> 4 -> 3 -> 2 -> 3 -> 4 -> 5 on points of a curved sheet in 5-D space.

    aejax train --config=stacked --workdir=runs/stacked

About 8 seconds on two CPU cores; squared error 0.012 a point, and 0.32 for PCA's plane. By the same code,
784-1000-500-250-30 on MNIST (Hinton and Salakhutdinov 2006):

    aejax train --config=stacked:mnist --workdir=runs/stacked_mnist

About 93 seconds on two CPU cores; squared error 5.0 a test image. PCA with 30 components has 13.87.

Options, as the textbooks describe them:
    --config.decoder.tied=True      the decoder's kernels are the encoder's, transposed
    --config.pretrain.steps=500     each layer is first trained as a separate autoencoder
"""

import aejax


def get_config(arg=""):
    flags = aejax.config.parse_arg(arg, tiny=False, mnist=False)
    config = aejax.config.default()
    if flags.mnist:
        config.data.name = "mnist"
        widths, code = (1000, 500, 250), 30
        config.steps, config.batch_size, config.checkpoint_every = 6_000, 256, 1_000
        config.log_every = 50
    else:
        config.data.name = "sheet"
        widths, code = (4, 3), 2
        config.steps, config.optim.lr = 3_000, 1e-2
    config.encoder = aejax.config.module("mlp", features=widths, activation="gelu")
    config.bottleneck = aejax.config.module("dense", features=code)
    config.decoder = aejax.config.module("mlp", features=widths[::-1], activation="gelu", tied=False)
    config.optim.schedule = "cosine"
    if flags.tiny:
        config.data.name = "digits" if flags.mnist else "sheet"
        aejax.config.shrink(config)
    return aejax.config.lock(config)
