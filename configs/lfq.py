"""Lookup-free quantization: 7x7 codes of 8 signs (Yu et al. 2024).

    aejax train --config=lfq --workdir=runs/lfq

About 39 seconds on two CPU cores; squared error 7.7 a test image.

`lfq:bsq` scales features and codes to length 1 (binary spherical quantization, Zhao et al. 2024), and `:residual`
quantizes what is left three times more, each time with half as large codes.
"""

from aejax import presets
from aejax.config import module, parse_arg


def get_config(arg=""):
    flags = parse_arg(arg, tiny=False, bsq=False, residual=False)
    config = presets.resnet(module("bsq", bits=8, temperature=0.1) if flags.bsq else module("lfq", bits=8))
    if flags.residual:
        config.bottleneck = module("residual", quantizer=config.bottleneck, levels=4)
    # The entropy of the codes is one number, but the entropies of the samples are summed over 49 positions.
    config.objective.weights = {"commitment": 0.25, "sample_entropy": 0.02, "codebook_entropy": 4.9}
    return presets.finish(config, flags.tiny)
