"""A tiny autoencoder: plain convolutions without normalization, down to an eighth of each side and up again, with 4
latent channels (TAESD, O. Boer Bohan, github.com/madebyollin/taesd).

    aejax train --config=taesd --workdir=runs/taesd

About 60 seconds on two CPU cores, on MNIST enlarged to 32x32; squared error 8.0 a validation image.

`taesd:published` has the widths of TAESD, 2.4 million parameters, for 256x256 images of ImageNet, or
of a folder that `--config.data.name` names. It was not trained here; the author distilled his from a large autoencoder.
`aejax.load_pretrained` reads the published weights.
"""

from aejax import presets
from aejax.config import lock, module, parse_arg


def get_config(arg=""):
    flags = parse_arg(arg, tiny=False, published=False)
    config = presets.images(flags.tiny, flags.published)
    if flags.tiny:
        width, blocks = 4, (1, 1)
    elif flags.published:
        width, blocks = 64, (1, 3, 3, 3)
    else:
        width, blocks = 32, (1, 1, 1, 1)
    config.encoder = module("taesd", channels=4, features=width, blocks=blocks)
    config.bottleneck = module("identity")
    config.decoder = module("taesd", features=width, blocks=blocks[::-1])
    return lock(config)
