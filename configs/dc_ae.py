"""The deep compression autoencoder: residual convolutions, linear attention near the code, and shortcuts that move
pixels to channels, down to a 32nd of each side and up again (Chen et al. 2024, "Deep compression autoencoder").

    aejax train --config=dc_ae --workdir=runs/dc_ae

About 70 seconds on two CPU cores, on MNIST enlarged to 32x32, down to an eighth of each side; squared error 11.4 a
validation image.

`dc_ae:published` has the widths of Sana's autoencoder, 312 million parameters and 32 latent channels, for 256x256
images of ImageNet, or of a folder that `--config.data.name` names. It was not trained here, and lacks the perceptual
and the adversarial loss of the paper. `aejax.load_pretrained` reads the published weights.
"""

from aejax import presets
from aejax.config import lock, module, parse_arg


def get_config(arg=""):
    flags = parse_arg(arg, tiny=False, published=False)
    config = presets.images(flags.tiny, flags.published)
    if flags.tiny:
        channels, features, blocks, heads, attentive = 4, (4, 8), ((1, 1), (1, 1)), 8, 1
    elif flags.published:
        features, blocks = (128, 256, 512, 512, 1_024, 1_024), ((2, 2, 2, 3, 3, 3), (3,) * 6)
        channels, heads, attentive = 32, 32, 3
    else:
        channels, features, blocks, heads, attentive = 8, (16, 32, 32, 64), ((1,) * 4, (1,) * 4), 16, 1
    stages = {"encoder": tuple(range(1 + len(features) - attentive, 1 + len(features)))}
    stages["decoder"] = tuple(range(1, 1 + attentive))
    shared = {"head_features": heads, "shuffle": False}
    config.encoder = module(
        "dc", channels=channels, features=features, blocks=blocks[0], attention_stages=stages["encoder"], **shared
    )
    config.bottleneck = module("identity")
    config.decoder = module(
        "dc", features=features[::-1], blocks=blocks[1], attention_stages=stages["decoder"], **shared
    )
    return lock(config)
