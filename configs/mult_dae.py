"""The multinomial denoising autoencoder for recommendations: items-200-items (Liang et al. 2018, Mult-DAE).

    aejax train --config=mult_dae --workdir=runs/mult_dae

About 60 seconds on two CPU cores beside other work; NDCG@100 0.523, Recall@20 0.425, Recall@50
0.594 of held-out users, where EASE 0.588 and popularity 0.174 are the NDCG@100 of others
(`python -m experiments.recommend`).

As `mult_vae`, but its code is deterministic. The weights are decayed by `optim.weight_decay` instead of an L2 penalty.
"""

from aejax import presets
from aejax.config import lock, module, parse_arg, shrink


def get_config(arg=""):
    flags = parse_arg(arg, tiny=False)
    config = presets.clicks()
    config.encoder = module("mlp", features=(200,), activation="tanh", dropout=0.5)
    config.decoder = module("mlp")
    config.optim.weight_decay = 1e-2
    if flags.tiny:
        config.encoder.features = (8,)
        shrink(config)
    return lock(config)
