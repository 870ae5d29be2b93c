"""The Wasserstein autoencoder, WAE-MMD: deterministic codes whose distribution is pulled toward N(0, I)
(Tolstikhin et al. 2018).

    aejax train --config=wae --workdir=runs/wae

About 40 seconds on two CPU cores; squared error 11.6 a test image.

`wae:paper` is the paper's model of MNIST, appendix D: convolutions of 4x4 with batch normalization, 8 latent units,
and 100 epochs. The weight is 10 / 0.05, as the published code multiplies squared errors by 0.05. Ghosh et al. 2020
report an FID of Inception of 9.39 for such a model with 16 units and samples of a mixture of 10 Gaussians.
"""

from aejax import presets
from aejax.config import module, parse_arg


def get_config(arg=""):
    flags = parse_arg(arg, tiny=False, paper=False)
    config = presets.mlp(module("dense", features=16))
    config.likelihood = module("squared_error")
    config.objective.weights.mmd = 10.0
    if flags.paper:
        config.encoder = module("dcgan", features=(128, 256, 512, 1024))
        config.bottleneck.features = 8
        config.decoder = module("dcgan", features=(1024, 512, 256), output="sigmoid")
        config.objective.weights.mmd = 10.0 / 0.05
        config.optim.schedule, config.optim.options = "wae", {"b1": 0.5}
        config.batch_size, config.steps = 100, 100 * 600
        config.checkpoint_every, config.log_every = 6_000, 600
    return presets.finish(config, flags.tiny)
