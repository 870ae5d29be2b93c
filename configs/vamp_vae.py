"""A VAE with the VampPrior, a mixture of the posteriors of 100 learned pseudo-inputs (Tomczak and Welling 2018).

    aejax train --config=vamp_vae --workdir=runs/vamp_vae

About 58 seconds on two CPU cores; squared error 10.1 a test image, 105 nats.

`vamp_vae:mixture` learns a mixture of 100 Gaussians instead.

`vamp_vae:paper` is that of the paper on static MNIST: two gated layers of 300 units each way, 40 latent units, 500
pseudo-inputs, a warm-up of 100 epochs, Adam with normalized gradients, and early stopping after 50 epochs without a
better validation. The paper has 85.57 nats, of 5,000 importance samples, on Larochelle's files, with
`--config.data.name=FOLDER --config.data.train= --config.data.validation= --config.data.binarize=none`. There the
pseudo-inputs are kept within [0, 1], and here they are free.

`vamp_vae:hvae` is the paper's hierarchical VAE, HVAE + VampPrior, with all else as in `:paper`: two layers of 40 latent
units and gated layers of 300 units.
"""

from aejax import presets
from aejax.config import module, parse_arg


def get_config(arg=""):
    flags = parse_arg(arg, tiny=False, mixture=False, paper=False, hvae=False)
    prior = "mixture" if flags.mixture else "vamp"
    config = presets.mlp(module("gaussian", features=16, prior=prior, components=100))
    config.objective.weights.kl = 1.0
    if flags.paper or flags.hvae:
        epoch = 500  # steps of 100 of the 50,000 train images
        config.data.binarize = "static"
        config.data.train, config.data.validation = "train[:50000]", "train[50000:]"
        config.encoder = module("mlp", features=(300, 300), units="gated", activation="linear")
        config.decoder = module("mlp", features=(300, 300), units="gated", activation="linear")
        config.bottleneck = module("gaussian", features=40, prior=prior, components=500)
        config.init = "glorot"
        config.objective.schedules.kl = module("linear", steps=100 * epoch)
        config.optim.name, config.optim.lr, config.optim.schedule = "adam_normalized", 5e-4, "constant"
        config.batch_size, config.steps = 100, 2_000 * epoch
        config.checkpoint_every, config.log_every, config.patience = epoch, epoch, 50
        if flags.hvae:  # the layers of the posteriors are in the bottleneck
            config.encoder = module("mlp", features=())
            config.bottleneck = module("two_level", features=(40, 40), hidden=300, components=500)
            config.decoder = module("mlp", features=(300,), units="gated", activation="linear")
        if flags.tiny:
            config.bottleneck.components = 10
            config.data.train = config.data.validation = ""
            config.patience = 0
    return presets.finish(config, flags.tiny)
