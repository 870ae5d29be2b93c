"""scVI, a VAE of counts of genes in cells: genes-128-10-128-genes (Lopez et al. 2018).

    aejax train --config=scvi --workdir=runs/scvi

On synthetic cells of 500 genes in three batches. Your own are `--config.data.name=cells.h5ad
--config.data.batch=COLUMN --config.classes=BATCHES`, or `aejax.fit(config, adata)`.

The sizes and the objective are the defaults of scvi-tools 1.5: zero-inflated negative binomial counts, whose mean is a
fraction of the cell's observed total, with a dispersion for each gene; log(1 + x) is encoded, the batch is read by the
decoder alone, weights begin as PyTorch's, and the KL weight rises for 400 epochs. Flax's weights, which are larger, let
the code tell the batches apart for longer than 50 epochs. What differs: dispersions, which begin at 1, a weight decay
that is decoupled and of kernels alone, no 1e-4 added to the posterior's variance, and a KL weight that rises with each
step instead of each epoch.

`latent_library` makes the total a latent variable, log-normal for each batch.
"""

from aejax.config import default, lock, module, parse_arg, shrink


def get_config(arg=""):
    flags = parse_arg(arg, tiny=False, latent_library=False)
    config = default()
    config.data.name = "cells"
    config.classes = 3
    config.condition.encoder = False
    config.inputs = "log1p"
    config.init = "pytorch"
    config.encoder = module("mlp", features=(128,), normalisation="slow_batch", hidden_dropout=0.1)
    config.bottleneck = module("gaussian", features=10)
    config.decoder = module("mlp", features=(128,), normalisation="slow_batch")
    config.likelihood = module("zero_inflated_negative_binomial", library="observed")
    config.objective.weights.kl = 1.0
    config.objective.schedules.kl = {"name": "linear", "steps": 7_200}
    config.optim.options = {"eps": 0.01}
    config.optim.weight_decay = 1e-6
    config.steps, config.checkpoint_every, config.log_every = 7_200, 1_800, 60  # 400 epochs of 18 steps
    if flags.latent_library:
        config.encoder = module("library", features=(128,), normalisation="slow_batch", hidden_dropout=0.1)
        config.bottleneck = module("library", features=10)
        config.decoder = module("library", code=10, features=(128,), parameters=2, normalisation="slow_batch")
        config.likelihood.library = "none"  # the decoder makes log means
        config.objective.weights.kl_library = 1.0
    if flags.tiny:
        if flags.latent_library:
            config.decoder.code = 2
        config.encoder.features = config.decoder.features = (8,)
        config.bottleneck.features = 2
        shrink(config)
    return lock(config)
