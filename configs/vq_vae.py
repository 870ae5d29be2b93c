"""VQ-VAE: residual convolutions and 7x7 codes from a codebook of 256, which moving averages update (van den Oord et al.
2017; Razavi et al. 2019). The codebook begins by k-means, and dead codes are revived.

    aejax train --config=vq_vae --workdir=runs/vq_vae

About 90 seconds on two CPU cores; squared error 5.4 a test image.

`vq_vae:gradient` learns the codebook by the codebook loss, `:cosine` compares by cosine similarity, and `:rotation`
has the gradient of the rotation trick (Fifty et al. 2024).

Other codebooks: `vq_vae:ibq` trains all codes at every step by index backpropagation (Shi et al. 2024); one
run of these 500 steps had a squared error of 7.8, and 26% of its codes were dead. `:simvq` learns a linear map of
constant codes (Zhu et al. 2024). `:grouped` has a codebook for each half of the features, `:heads` one codebook for
both halves.
"""

from aejax import presets
from aejax.config import module, parse_arg


def get_config(arg=""):
    variants = ("gradient", "cosine", "rotation", "ibq", "simvq", "grouped", "heads")
    flags = parse_arg(arg, tiny=False, **dict.fromkeys(variants, False))
    config = presets.resnet(module("vq", codes=256, features=16, kmeans=True, revive_after=50))
    config.objective.weights.commitment = 0.25
    if flags.gradient:
        config.bottleneck = module("vq", codes=256, features=16, update="gradient")
        config.objective.weights.codebook = 1.0
    if flags.cosine:
        config.bottleneck.metric = "cosine"
    if flags.rotation:
        config.bottleneck.gradient = "rotation"
    if flags.ibq:
        config.bottleneck = module("ibq", codes=256, features=16)
        # The gradient of x through the softmax is small where the choice is clear. Weights near 1, as in the paper,
        # outweigh it on MNIST, and the codes collapse.
        config.objective.weights = {"quantization": 0.0025, "commitment": 0.0025, "codebook": 0.0006}
        config.objective.weights.update(sample_entropy=0.04, codebook_entropy=2.0)
    if flags.simvq:
        config.bottleneck = module("simvq", codes=256, features=16)
        config.objective.weights.codebook = 1.0
    if flags.tiny:
        config.bottleneck.codes = 8
    if flags.grouped or flags.heads:
        config.bottleneck.features = 8
        config.bottleneck = module("grouped", quantizer=config.bottleneck, groups=2, shared=flags.heads)
    return presets.finish(config, flags.tiny)
