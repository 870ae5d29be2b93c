"""The autoencoder of VQGAN: residual convolutions with attention around a codebook that gradients learn (Esser et al.
2021, without the perceptual and the adversarial loss of the paper).

    aejax train --config=vqgan --workdir=runs/vqgan

About 60 seconds on two CPU cores, on MNIST enlarged to 32x32; squared error 12.4 a validation image.

`vqgan:published` has the widths, the 1,024 codes and the attention at a sixteenth of each side of the paper's ImageNet
model, for 256x256 images of ImageNet, or of a folder that `--config.data.name` names. It was not trained here.
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
    config.bottleneck = module("vq", codes=codes, features=width, update="gradient")
    shared["blocks"] += 1
    config.decoder = module("kl", project=width, features=features[::-1], attention_stages=stages["decoder"], **shared)
    config.objective.weights = {"commitment": 0.25, "codebook": 1.0}
    return lock(config)
