"""A VAE whose posterior is two steps of inverse autoregressive flow (Kingma et al. 2016).

    aejax train --config=flow_vae --workdir=runs/flow_vae

About 72 seconds on two CPU cores; squared error 10.3 a test image, 107 nats.

`flow_vae:planar` has eight planar steps (Rezende and Mohamed 2015), `:full` a Gaussian with full covariance.

`flow_vae:rezende` is the experiment of Rezende and Mohamed 2015, section 6.2, on binary MNIST: 10 planar steps on 40
latent units, one layer of 400 maxout units each way, and 500,000 steps of RMSprop. Others quote from it a bound
of 85.1 nats by 80 steps, which `--config.bottleneck.depth=80` sets, and which take minutes to compile. There the weight
of log p(x, z) is raised from 0.01 to 1 over 10,000 steps, and here that of the KL from 0.

`flow_vae:iaf_paper` is the experiment of Kingma et al. 2016 on binary MNIST: residual convolutions with 16, 32 and 32
channels at half the size each and two blocks a stage, ELU, 32 latent units, and 8 steps of inverse autoregressive flow
with 1,920 hidden units, whose networks also read the encoder's features. The paper has 79.10 nats, of 128 importance
samples. There the convolutions are followed by a dense layer of 450 units and have normalized weights, and the
optimizer is Adamax.
"""

from aejax import presets
from aejax.config import module, parse_arg


def get_config(arg=""):
    flags = parse_arg(arg, tiny=False, planar=False, full=False, rezende=False, iaf_paper=False)
    posterior = "planar" if flags.planar or flags.rezende else "full" if flags.full else "iaf"
    config = presets.mlp(module("gaussian", features=16, posterior=posterior, depth=8 if flags.planar else 2))
    config.objective.weights.kl = 1.0
    if flags.rezende:
        config.data.binarize = "dynamic"
        config.encoder = module("mlp", features=(400,), units="maxout", activation="linear")
        config.decoder = module("mlp", features=(400,), units="maxout", activation="linear")
        config.bottleneck = module("gaussian", features=40, posterior="planar", depth=2 if flags.tiny else 10)
        config.objective.schedules.kl = module("linear", steps=10_000)
        config.optim.name, config.optim.lr, config.optim.schedule = "rmsprop", 1e-5, "constant"
        config.optim.options = {"momentum": 0.9}
        config.batch_size, config.steps = 100, 500_000
        config.checkpoint_every, config.log_every = 5_000, 1_000
    if flags.iaf_paper:
        config.data.binarize = "dynamic"
        blocks = {"blocks": 2, "activation": "elu", "normalisation": "none"}
        config.encoder = module("resnet", features=(16, 32, 32), **blocks)
        config.decoder = module("resnet", features=(32, 32, 16), **blocks)
        size = {"depth": 2, "hidden": 16} if flags.tiny else {"depth": 8, "hidden": 1920}
        config.bottleneck = module("gaussian", features=32, posterior="iaf", **size)
        config.optim.lr, config.optim.schedule, config.optim.clip = 1e-3, "cosine", 100.0
        config.batch_size, config.steps, config.ema = 100, 120_000, 0.999
        config.checkpoint_every, config.log_every = 6_000, 600
    return presets.finish(config, flags.tiny)
