"""A VAE whose posterior is two steps of inverse autoregressive flow (Kingma et al. 2016).

    aejax train --config=flow_vae --workdir=runs/flow_vae

About 72 seconds on two CPU cores; squared error 10.3 a test image, 107 nats.

`flow_vae:planar` has eight planar steps (Rezende and Mohamed 2015), `:full` a Gaussian with full covariance.

`flow_vae:rezende` is the experiment of Rezende and Mohamed 2015, section 6.2, on binary MNIST: 10 planar steps on 40
latent units, one layer of 400 maxout units each way, and 500,000 steps of RMSprop. The paper has a bound of 87.5 nats,
and 86.5, 85.7 and 85.1 with `--config.bottleneck.depth=20`, 40 and 80, which take minutes to compile. There the weight
of log p(x, z) is raised from 0.01 to 1 over 10,000 steps, and here that of the KL from 0.
"""

from aejax import presets
from aejax.config import module, parse_arg


def get_config(arg=""):
    flags = parse_arg(arg, tiny=False, planar=False, full=False, rezende=False)
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
    return presets.finish(config, flags.tiny)
