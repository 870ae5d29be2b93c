"""A beta-VAE of solids in volumes, 16x16x16 -> 4x4x4 -> 10, by residual convolutions over three axes.

    aejax train --config=volume_vae --workdir=runs/volume_vae

About 165 seconds of CPU time; squared error 14.6 a test example, where PCA of as many components has 13.2; MIG 0.07,
DCI disentanglement 0.19 (`python -m experiments.kinds`).

`volumes` has six known factors: shape, size, three coordinates and an angle, which single units separate little in so
few steps. The weight of the KL, 2, costs more error than PCA's.
"""

from aejax import presets
from aejax.config import module, parse_arg


def get_config(arg=""):
    flags = parse_arg(arg, tiny=False)
    config = presets.resnet(module("gaussian", features=10), features=(8, 16))
    presets.shorten(config, 800)
    config.encoder.normalisation = config.decoder.normalisation = "none"  # group would divide by a solid's size
    config.data.name, config.batch_size, config.optim.lr = "volumes", 64, 2e-3
    config.objective.weights.kl = 2.0
    if flags.tiny:
        config.encoder.features = config.decoder.features = (4,)
        config.data.size = 4
        config = presets.finish(config, tiny=True).unlock()
        config.data.name = "volumes"
    return config.lock()
