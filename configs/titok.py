"""TiTok: one-dimensional tokens of images (Yu et al. 2024, "An image is worth 32 tokens for reconstruction and
generation"). A vision transformer reads the patches with learned queries, whose features are rounded to one of 1,000
codes each (FSQ, Mentzer et al. 2024). Another one makes the image of these tokens. The pixels are learned directly,
without the first stage of the paper and without its learned codebook.

    aejax train --config=titok --workdir=runs/titok

About 100 seconds on two CPU cores, 16 tokens of 1,000 codes each for MNIST; squared error 13.9 a validation image. In a
batch of 128 images, 72% of the codes do not occur.

`titok:ordered` drops the last tokens at random in training, so that the first ones alone make an image, too (nested
dropout, Rippel et al. 2014): of 2,000 test images, the first 1, 4, 8 and 12 tokens have squared errors of 41.1, 22.4,
18.7 and 17.5; the last four add nothing.
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
