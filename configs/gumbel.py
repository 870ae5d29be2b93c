"""A VAE with categorical codes, 16 variables of 16 classes, by the Gumbel-softmax with a temperature that falls from
1 to 0.5 (Jang et al. 2017; Maddison et al. 2017).

    aejax train --config=gumbel --workdir=runs/gumbel

About 45 seconds on two CPU cores; squared error 20.3 a test image, 137 nats.
"""

from aejax import presets
from aejax.config import module, parse_arg


def get_config(arg=""):
    flags = parse_arg(arg, tiny=False)
    config = presets.mlp(module("gumbel", codes=16, positions=16, anneal_to=0.5, anneal_steps=1_500))
    config.objective.weights.kl = 1.0
    return presets.finish(config, flags.tiny)
