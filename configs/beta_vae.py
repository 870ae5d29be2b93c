"""The beta-VAE, beta = 4 (Higgins et al. 2017).

    aejax train --config=beta_vae --workdir=runs/beta_vae

About 54 seconds on two CPU cores; squared error 18.9 a test image, 127 nats.

`beta_vae:warmup` raises the weight from 0 over 1,000 steps (Bowman et al. 2016), `:cyclical` does so four times
(Fu et al. 2019), `:capacity` raises the code's target KL to 25 nats (Burgess et al. 2018; 25.5 are measured,
`aejax evaluate --groups=likelihood`, experiments/results/beta_vae_capacity), and `:free_bits` does not
penalize the first 0.5 nats of each unit, at beta = 1 (Kingma et al. 2016).
"""

from aejax import presets
from aejax.config import module, parse_arg


def get_config(arg=""):
    flags = parse_arg(arg, tiny=False, warmup=False, cyclical=False, capacity=False, free_bits=False)
    config = presets.mlp(module("gaussian", features=16))
    objective = config.objective
    if flags.capacity:
        objective.weights.capacity = 10.0
        objective.options.capacity = {"nats": 25.0, "steps": 1_500}
    elif flags.free_bits:
        objective.weights.free_bits = 1.0
        objective.options.free_bits = {"nats": 0.5}
    else:
        objective.weights.kl = 4.0
    if flags.warmup:
        objective.schedules.kl = {"name": "linear", "steps": 1_000}
    if flags.cyclical:
        objective.schedules.kl = {"name": "cyclical", "steps": 1_600}
    return presets.finish(config, flags.tiny)


def sweep(add):
    """Adds runs from beta = 0, an autoencoder, to beta = 16, with three seeds each: aejax sweep."""
    for beta in (0.0, 1.0, 4.0, 16.0):
        for seed in range(3):
            add(**{"objective.weights.kl": beta, "seed": seed})
