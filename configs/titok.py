"""TiTok: one-dimensional tokens of images (Yu et al. 2024, "An image is worth 32 tokens for reconstruction and
generation"). A vision transformer reads the patches with learned queries, whose features are rounded to one of 240
codes each (FSQ, Mentzer et al. 2024). Another one makes the image of these tokens. The pixels are learned directly,
without the first stage of the paper and without its learned codebook.

    aejax train --config=titok --workdir=runs/titok

About 30 seconds on two CPU cores, on 8x8 digits with 3 tokens; squared error 3.3 a validation image, where the mean
image has about 4.7. This is a demonstration: at the size of MNIST, its settings did not train.

`titok:ordered` drops the last tokens at random in training, so that the first ones alone make an image, too (nested
dropout, Rippel et al. 2014). One, two and three tokens have squared errors of 3.96, 3.69 and 3.66 a test image.
"""

from aejax import presets
from aejax.config import module, parse_arg


def get_config(arg=""):
    flags = parse_arg(arg, tiny=False, ordered=False)
    config = presets.mnist()
    tokens = 3 if flags.tiny else 16
    shared = {"patch": 4, "features": 8, "layers": 1} if flags.tiny else {"patch": 7, "features": 64, "layers": 2}
    config.encoder = module("vit", queries=tokens, **shared, heads=2 if flags.tiny else 4)
    config.bottleneck = module("fsq", levels=(8, 5, 5, 5))
    config.decoder = module("vit", tokens=tokens, **shared, heads=2 if flags.tiny else 4)
    if flags.ordered:
        config.bottleneck = module("ordered", bottleneck=config.bottleneck)
    return presets.finish(config, flags.tiny)
