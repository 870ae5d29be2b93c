"""The autoencoder of VQGAN: residual convolutions around a codebook (Esser et al. 2021, without the perceptual and the
adversarial loss of the paper). The codes have 8 features (Yu et al. 2022), begin by k-means, follow moving averages,
and are revived when they are dead.

    aejax train --config=vqgan --workdir=runs/vqgan

About 60 seconds on two CPU cores, on MNIST enlarged to 32x32; squared error 5.3 a validation image. On
average, 5% of the 256 codes do not occur in a batch of 32 images.

`vqgan:published` has the widths, the attention at a sixteenth of each side and the 1,024 codes of the paper's ImageNet
model, which gradients learn, for 256x256 images of ImageNet, or of a folder that `--config.data.name` names. It was not
trained here.
`aejax.load_pretrained` reads a VQModel of diffusers.
"""

from aejax import presets
from aejax.config import lock, module, parse_arg


def get_config(arg=""):
    flags = parse_arg(arg, tiny=False, published=False)
    config = presets.images(flags.tiny, flags.published)
    if flags.tiny:
        features, blocks, groups, codes, width = (4, 8), 1, 2, 8, 4
    elif flags.published:
        features, blocks, groups, codes, width = (128, 128, 256, 256, 512), 2, 32, 1_024, 256
    else:
        features, blocks, groups, codes, width = (16, 32, 32), 1, 8, 256, 16
    stages = {"encoder": (len(features),), "decoder": (1,)} if flags.published else {"encoder": (), "decoder": ()}
    shared = {"blocks": blocks, "groups": groups}
    config.encoder = module("kl", channels=width, features=features, attention_stages=stages["encoder"], **shared)
    config.objective.weights.commitment = 0.25
    if flags.published:
        config.bottleneck = module("vq", codes=codes, features=width, update="gradient")
        config.objective.weights.codebook = 1.0
    else:
        config.bottleneck = module("vq", codes=codes, features=min(width, 8), kmeans=True, revive_after=20)
    shared["blocks"] += 1
    config.decoder = module("kl", project=width, features=features[::-1], attention_stages=stages["decoder"], **shared)
    return lock(config)
