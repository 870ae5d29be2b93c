"""Sparse autoencoders of activations [n, d], with a pre-encoder bias, an encoder that starts as the transpose of the
decoder, and whatever keeps their units alive.

    aejax train --config=sae --workdir=runs/sae --config.data.name=activations.npy

Without data of one's own it trains on the digits. An argument chooses the architecture, e.g. `sae:gated`:

| argument | sparse by | dead units |
| --- | --- | --- |
| `topk` (the default) | the k largest units of each example (Gao et al. 2024) | resampling |
| `batch_topk` | the k largest per example on average over the batch (Bussmann et al. 2024) | the same |
| `matryoshka` | likewise, where prefixes of the code reconstruct, too (Bussmann et al. 2025) | the same |
| `jumprelu` | learned thresholds, drawn to a target L0 (Rajamanoharan et al. 2024b) | the pre-activation loss |
| `gated` | gates under an L1 penalty (Rajamanoharan et al. 2024a) | resampling |
| `l1` | an L1 penalty weighted by the decoder's norms (Bricken et al. 2023; Conerly et al. 2024) | resampling |
| `matching_pursuit` | k greedy steps (Costa et al. 2025) | |

Width and sparsity are `--config.bottleneck.features` and `--config.bottleneck.k`, for jumprelu
`--config.objective.options.l0_target.target`, and for gated and l1 the weight of the penalty.
"""

from aejax.config import default, lock, module, parse_arg, shrink

ARCHITECTURES = ("topk", "batch_topk", "matryoshka", "jumprelu", "gated", "l1", "matching_pursuit")
FEATURES, K = 512, 8


def get_config(arg=""):
    flags = parse_arg(arg, tiny=False, **dict.fromkeys(ARCHITECTURES, False))
    features, k = (32, 4) if flags.tiny else (FEATURES, K)
    config = default()
    config.steps, config.batch_size, config.checkpoint_every, config.log_every = 4_000, 1_024, 1_000, 100
    config.decoder = module("dictionary")
    config.optim.lr = 3e-3
    weights, options, dead_after = config.objective.weights, config.objective.options, 200
    name = next((name for name in ARCHITECTURES if flags[name]), "topk")
    if name in ("topk", "batch_topk", "matryoshka"):
        kind = "topk" if name == "topk" else "batch_topk"
        config.bottleneck = module(kind, features=features, k=k, dead_after=dead_after, resample=100)
        if name == "matryoshka":
            weights.prefixes = 1.0
            options.prefixes = {"widths": (features // 8, features // 4, features // 2)}
    elif name == "jumprelu":
        config.bottleneck = module("jumprelu", features=features, bandwidth=0.3, dead_after=dead_after)
        weights.l0_target, options.l0_target = 1.0, {"target": float(k)}
        weights.pre_activation = 1e-3
    elif name == "gated":
        config.bottleneck = module("gated", features=features, dead_after=dead_after, resample=1_000)
        weights.gate_l1, weights.gate_reconstruction = 2.0, 1.0
        options.gate_l1 = {"decoder_norms": True}
    elif name == "l1":
        config.bottleneck = module("relu", features=features, dead_after=dead_after, resample=1_000)
        weights.l1, options.l1 = 0.5, {"decoder_norms": True}
    else:
        config.bottleneck = module("matching_pursuit", features=features, k=k, dead_after=dead_after)
        config.decoder = module("dictionary", tied=True, unit_norm=True)
    if flags.tiny:
        shrink(config)
    return lock(config)
