"""A prior for discrete codes: a causal transformer over the codes, row by row, trained by maximum likelihood
(van den Oord et al. 2017, section 3.3).

    aejax sample --workdir=runs/vq_vae --prior=transformer --num=64 --out=samples.png

The config of a prior is one section: the name of a sampler in aejax.samplers.SAMPLERS and its options. Each option
is a flag, e.g. --prior.steps=5000. The number of codes is that of the run.
"""

import aejax


def get_config(arg=""):
    flags = aejax.config.parse_arg(arg, tiny=False)
    config = aejax.config.module("autoregressive", width=64, layers=3, heads=4, steps=2_000, batch_size=64, lr=2e-3)
    if flags.tiny:
        config.update({"width": 8, "layers": 1, "heads": 2, "steps": 4})
    return config
