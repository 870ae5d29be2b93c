"""The multinomial VAE for recommendations: items-600-200-600-items (Liang et al. 2018, Mult-VAE).

    aejax train --config=mult_vae --workdir=runs/mult_vae

About 174 seconds on two CPU cores beside other work; NDCG@100 0.563, Recall@20 0.449, Recall@50
0.633 of held-out users, where EASE 0.588 and popularity 0.174 are the NDCG@100 of others
(`python -m experiments.recommend`).

Clicks of a user are divided by their norm, half of them are dropped in training, and the KL weight is annealed to 0.2.
`run.decode(run.encode(clicks))` returns the probability of each item. Clicks are `--config.data.name=clicks.npz`, a
matrix [users, items] that `scipy.sparse.save_npz` wrote.
"""

from aejax import presets
from aejax.config import lock, module, parse_arg, shrink


def get_config(arg=""):
    flags = parse_arg(arg, tiny=False)
    config = presets.clicks()
    config.encoder = module("mlp", features=(600,), activation="tanh", dropout=0.5)
    config.bottleneck = module("gaussian", features=200)
    config.decoder = module("mlp", features=(600,), activation="tanh")
    config.objective.weights.kl = 0.2
    config.objective.schedules.kl = {"name": "linear", "steps": 600}
    if flags.tiny:
        config.encoder.features = config.decoder.features = (8,)
        config.bottleneck.features = 4
        shrink(config)
    return lock(config)
