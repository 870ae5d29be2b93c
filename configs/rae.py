"""The regularized autoencoder: penalties on the codes and on the decoder's gradients replace noise (Ghosh et al. 2020).

    aejax train --config=rae --workdir=runs/rae

About 153 seconds on two CPU cores; squared error 15.9 a test image.

`rae:spectral` divides the decoder's kernels by their largest singular value, `:l2` penalizes them.

`rae:paper` is the model of MNIST with the penalty of kernels: convolutions of 4x4 with batch normalization, 16 latent
units, and 100 epochs of Adam. Its weights are those of the published code, which averages errors over pixels and codes
over units: 1e-4 * 784 / 16 of the squared codes and 1e-7 * 784 of the squared kernels. The paper has an FID of
Inception of 8.69 for samples of a mixture of 10 Gaussians. There images are padded to 32x32.
"""

from aejax import presets
from aejax.config import module, parse_arg


def get_config(arg=""):
    flags = parse_arg(arg, tiny=False, spectral=False, l2=False, paper=False)
    config = presets.mlp(module("dense", features=16))
    config.likelihood = module("squared_error")
    config.objective.weights.code_l2 = 1e-2
    if flags.paper:
        config.encoder = module("dcgan", features=(128, 256, 512, 1024))
        config.bottleneck.features = 16
        config.decoder = module("dcgan", features=(1024, 512, 256), output="sigmoid")
        # The terms are half of the squared norms.
        config.objective.weights = {"code_l2": 2 * 1e-4 * 784 / 16, "decoder_l2": 2 * 1e-7 * 784}
        config.optim.lr, config.optim.schedule = 5e-4, "constant"
        config.batch_size, config.steps = 100, 100 * 600
        config.checkpoint_every, config.log_every = 6_000, 600
    elif flags.spectral:
        config.decoder.spectral = True
    elif flags.l2:
        config.objective.weights.decoder_l2 = 1e-4
    else:
        config.objective.weights.gradient_penalty = 1e-3
        presets.shorten(config, 600)
    return presets.finish(config, flags.tiny)
