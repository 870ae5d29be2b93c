"""The masked autoencoder: a small vision transformer sees a quarter of the 4x4 patches, and another one predicts the
hidden patches, which alone have a loss (He et al. 2022).

    aejax train --config=mae --workdir=runs/mae

About 53 seconds on two CPU cores; squared error 735.1 a test image.
"""

from aejax import presets
from aejax.config import module, parse_arg


def get_config(arg=""):
    flags = parse_arg(arg, tiny=False)
    config = presets.mnist()
    presets.shorten(config, 800)
    config.encoder = module("vit", patch=4, features=64, layers=2, heads=4, mask_ratio=0.75)
    config.bottleneck = module("masked", features=32)
    config.decoder = module("vit", patch=4, features=32, layers=1, heads=4)
    config.likelihood = module("squared_error")
    if flags.tiny:
        config.encoder.features = config.decoder.features = config.bottleneck.features = 8
        config.encoder.patch = config.decoder.patch = 2
        config.data.name = "digits"
    return presets.finish(config, flags.tiny)
