"""The VAE and the importance weighted autoencoders of Burda et al. 2016: 784-200-200-50, tanh, binary images that are
drawn anew each time.

    aejax train --config=burda --workdir=runs/burda

`burda:k5` and `burda:k50` have so many importance samples. `:miwae`, `:ciwae` and `:piwae` are the bounds of Rainforth
et al. 2018 with 64 samples: 8 groups of 8, and a share of 0.05. `:two` has two stochastic layers,
784-200-200-100-100-100-50, and goes with each of these, e.g. `burda:two,k50`.

3,280 passes of 3,000 steps, in stages of 1, 3, 9, ..., 2187 passes with falling rates; `--config.steps` shortens all
stages. The paper has 86.76 nats for one sample, 85.54 for 5, 84.78 for 50. Rainforth et al. have 84.97 (miwae),
84.57 (ciwae) and 84.46 (piwae). Two layers have 85.33, 83.89 and 82.90 for 1, 5 and 50 samples (Burda et al. 2016).
"""

from aejax import presets
from aejax.config import default, module, parse_arg

BOUNDS = {
    "k5": (5, module("iwae")),
    "k50": (50, module("iwae")),
    "miwae": (64, module("miwae", groups=8)),
    "ciwae": (64, module("ciwae", share=0.05)),
    "piwae": (64, module("piwae", groups=8)),
}


def get_config(arg=""):
    flags = parse_arg(arg, tiny=False, two=False, **dict.fromkeys(BOUNDS, False))
    config = default()
    config.data.name, config.data.binarize = "mnist", "dynamic"
    config.data.train, config.data.validation = "train", "train[:10%]"  # which only shows how training goes on
    config.batch_size, config.steps = 20, 3_280 * 3_000
    config.checkpoint_every, config.log_every = 30_000, 3_000
    samples, bound = next((of for name, of in BOUNDS.items() if flags[name]), (1, module("elbo")))
    config.encoder = module("mlp", features=(200, 200), activation="tanh")
    config.bottleneck = module("gaussian", features=50, samples=samples)
    if flags.two:
        layers = {"features": (100, 50), "hidden": ((100, 100),), "activation": "tanh"}
        config.bottleneck = module("hierarchical", **layers, samples=samples)
    config.decoder = module("mlp", features=(200, 200), activation="tanh")
    config.init, config.output_bias = "glorot", "mean"
    config.likelihood = module("bernoulli")
    config.objective.weights.kl = 1.0
    config.objective.bound = bound
    config.optim.schedule, config.optim.options = "burda", {"eps": 1e-4}
    if flags.tiny:
        config.data.train = config.data.validation = ""
    return presets.finish(config, flags.tiny)
