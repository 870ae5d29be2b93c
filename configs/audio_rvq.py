"""A codec of sound at 16 kHz: causal residual convolutions over time, [4096, 1] -> [128, 16], and residual codes of 8
levels (after Zeghidour et al. 2021, SoundStream).

    aejax train --config=audio_rvq --workdir=runs/audio_rvq

`voices` is synthetic. `--config.data.name=FOLDER` takes a folder of .wav files instead. The loss is the squared error
of the samples and the distance of their spectra, `multiscale_stft`; in training the first levels of a code often count
alone, so that fewer levels make a lower rate: 3 kbit/s each. `run.signals` codes sounds of any length.

About 73 seconds of CPU time; on speech of espeak-ng, SI-SDR 3.3 dB by one level, 7.5 by three and 9.7 by all eight
(`python -m experiments.audio`).
"""

from aejax import presets
from aejax.config import default, lock, module, parse_arg, shrink


def get_config(arg=""):
    flags = parse_arg(arg, tiny=False)
    config = default()
    config.data.name, config.data.standardize, config.data.size = "voices", True, 4_096
    presets.shorten(config, 800)
    config.batch_size, config.optim.lr, config.optim.schedule = 8, 2e-3, "cosine"
    blocks = {"activation": "elu", "normalisation": "none", "causal": True}
    config.encoder = module("resnet", features=(16, 32, 32, 64, 64), whole_frames=True, **blocks)
    config.bottleneck = module(
        "residual_vq", levels=8, codes=64, features=16, dropout=0.5, kmeans=True, revive_after=50
    )
    config.decoder = module("resnet", features=(64, 64, 32, 32, 16), **blocks)
    config.objective.weights = {"commitment": 0.25, "multiscale_stft": 100.0}
    if flags.tiny:
        config.data.size, config.data.standardize = 64, False
        config.objective.weights = {"commitment": 0.01, "multiscale_stft": 0.1}  # small steps, for small rounding
        config.encoder.features = config.decoder.features = (4,)
        config.bottleneck.update({"levels": 2, "codes": 8, "features": 4})
        config.objective.options.multiscale_stft = {"windows": (16, 8)}
        shrink(config)
    return lock(config)
