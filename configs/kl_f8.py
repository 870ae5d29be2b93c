"""The autoencoder of latent diffusion with a KL penalty: residual convolutions down to an eighth of each side and up
again, with attention in the middle, and 4 Gaussian latent channels (Rombach et al. 2022, appendix G).

    aejax train --config=kl_f8 --workdir=runs/kl_f8

About 60 seconds on two CPU cores, on MNIST enlarged to 32x32; squared error 10.0 a validation image.

`kl_f8:published` has the widths of Stable Diffusion's autoencoder, 84 million parameters, for 256x256 images of
ImageNet, or of a folder that `--config.data.name` names. It was not trained here, and lacks the perceptual and the
adversarial loss of the paper. `aejax.load_pretrained` reads the published weights.
"""

from aejax import presets
from aejax.config import lock, module, parse_arg


def get_config(arg=""):
    flags = parse_arg(arg, tiny=False, published=False)
    config = presets.images(flags.tiny, flags.published)
    if flags.tiny:
        features, blocks, groups = (4, 8), 1, 2
    elif flags.published:
        features, blocks, groups = (128, 256, 512, 512), 2, 32
    else:
        features, blocks, groups = (16, 32, 32, 32), 1, 8
    config.encoder = module("kl", channels=8, features=features, blocks=blocks, groups=groups)
    config.bottleneck = module("spatial_gaussian", features=4)
    config.decoder = module("kl", project=4, features=features[::-1], blocks=blocks + 1, groups=groups)
    config.objective.weights.kl = 1e-6
    return lock(config)
