"""A variational autoencoder of series, [128, 2] -> 16, by an LSTM each way (after Bowman et al. 2016).

    aejax train --config=lstm_vae --workdir=runs/lstm_vae

The encoder reads a series step by step, and its last state gives the posterior; the decoder reads the code at every
step. Series of unequal length are padded by NaN, which changes nothing.

On `waves` its 600 steps are too few for the decoder to oscillate, and what it misses is hardly larger for anomalies:
AUROC 0.55 of planted anomalies, where PCA of as many components has 0.79. The code is better: 70% of linear probes of
the kind are right, where PCA has 40% (`python -m experiments.series`).

Options: `lstm_vae:gru` for gated recurrent units (Cho et al. 2014).
"""

from aejax import presets
from aejax.config import lock, module, parse_arg, shrink


def get_config(arg=""):
    flags = parse_arg(arg, tiny=False, gru=False)
    config = presets.series()
    config.encoder = module("rnn", features=64, cell="gru" if flags.gru else "lstm")
    config.bottleneck = module("gaussian", features=16)
    config.decoder = module("rnn", features=64, cell="gru" if flags.gru else "lstm")
    config.likelihood = module("gaussian", scale=0.3)
    config.objective.weights.kl = 1.0
    config.objective.schedules.kl = {"name": "linear", "steps": 400}  # or the decoder does without the code
    config.optim.clip = 1_000.0  # the gradient of a recurrence is at times far larger than its mean
    if flags.tiny:
        config.data.size = 16
        config.encoder.features = config.decoder.features = 4
        shrink(config)
    return lock(config)
