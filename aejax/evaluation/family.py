"""The name of the family of autoencoders that a config describes."""

from collections.abc import Mapping
from typing import Any

from aejax import config as config_lib

_ANY = object()
# The first whose values the config has; a weight of `_ANY` is one that is not 0.
_FAMILIES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("Adversarial autoencoder", {"adversary.name": "aae"}),
    ("FactorVAE", {"adversary.name": "factor_vae"}),
    ("VAE-GAN", {"adversary.name": "vae_gan"}),
    ("Masked autoencoder", {"bottleneck.name": "masked"}),
    ("VQ-VAE", {"bottleneck.name": "vq"}),
    ("Residual VQ-VAE", {"bottleneck.name": "residual_vq"}),
    ("FSQ autoencoder", {"bottleneck.name": "fsq"}),
    ("LFQ autoencoder", {"bottleneck.name": "lfq"}),
    ("BSQ autoencoder", {"bottleneck.name": "bsq"}),
    ("IBQ autoencoder", {"bottleneck.name": "ibq"}),
    ("SimVQ autoencoder", {"bottleneck.name": "simvq"}),
    ("Residual FSQ autoencoder", {"bottleneck.name": "residual", "bottleneck.quantizer.name": "fsq"}),
    ("Residual LFQ autoencoder", {"bottleneck.name": "residual", "bottleneck.quantizer.name": "lfq"}),
    ("Residual quantized autoencoder", {"bottleneck.name": "residual"}),
    ("Multi-head quantized autoencoder", {"bottleneck.name": "grouped", "bottleneck.shared": True}),
    ("Group-quantized autoencoder", {"bottleneck.name": "grouped"}),
    ("Ordered autoencoder", {"bottleneck.name": "ordered"}),
    ("Gumbel-softmax VAE", {"bottleneck.name": "gumbel"}),
    ("k-sparse autoencoder", {"bottleneck.name": "topk"}),
    ("Matryoshka autoencoder", {"bottleneck.name": "batch_topk", "objective.weights.prefixes": _ANY}),
    ("Batch top-k autoencoder", {"bottleneck.name": "batch_topk"}),
    ("JumpReLU autoencoder", {"bottleneck.name": "jumprelu"}),
    ("Gated sparse autoencoder", {"bottleneck.name": "gated"}),
    ("Sparse autoencoder", {"bottleneck.name": "relu"}),
    ("Matching pursuit autoencoder", {"bottleneck.name": "matching_pursuit"}),
    ("Spherical autoencoder", {"bottleneck.name": "spherical"}),
    ("β-TCVAE", {"bottleneck.name": "gaussian", "objective.weights.total_correlation": _ANY}),
    ("DIP-VAE", {"bottleneck.name": "gaussian", "objective.weights.dip": _ANY}),
    ("InfoVAE", {"bottleneck.name": "gaussian", "objective.weights.mmd": _ANY}),
    ("IWAE", {"objective.bound.name": "iwae"}),
    ("IWAE (DReG)", {"objective.bound.name": "dreg"}),
    ("MIWAE", {"objective.bound.name": "miwae"}),
    ("CIWAE", {"objective.bound.name": "ciwae"}),
    ("PIWAE", {"objective.bound.name": "piwae"}),
    ("VampPrior VAE", {"bottleneck.name": "gaussian", "bottleneck.prior": "vamp"}),
    ("VAE with a mixture prior", {"bottleneck.name": "gaussian", "bottleneck.prior": "mixture"}),
    ("Flow VAE", {"bottleneck.name": "gaussian", "bottleneck.posterior": "iaf"}),
    ("Flow VAE", {"bottleneck.name": "gaussian", "bottleneck.posterior": "planar"}),
    ("VAE", {"bottleneck.name": "gaussian"}),
    ("Hierarchical VAE", {"bottleneck.name": "hierarchical"}),
    ("Ladder VAE", {"bottleneck.name": "ladder"}),
    ("Contractive autoencoder", {"objective.weights.contractive": _ANY}),
    ("Regularized autoencoder", {"objective.weights.code_l2": _ANY}),
    ("Sparse autoencoder", {"objective.weights.kl_sparsity": _ANY}),
    ("Sparse autoencoder", {"objective.weights.l1": _ANY}),
    ("Wasserstein autoencoder", {"objective.weights.mmd": _ANY}),
    ("Convolutional autoencoder", {"encoder.name": "conv", "bottleneck.name": "conv"}),
    ("Autoencoder", {}),
)


def family(config: Mapping[str, Any]) -> str:
    """Returns the name that the literature has for what the config describes, e.g. "Conditional β-VAE (β = 4)"."""
    flat = dict(config_lib.flatten(config))
    fits = lambda key, value: flat.get(key, 0) != 0 if value is _ANY else flat.get(key) == value  # noqa: E731
    name = next(name for name, wanted in _FAMILIES if all(fits(key, value) for key, value in wanted.items()))
    beta = flat.get("objective.weights.kl", 1)
    if name == "VAE" and beta != 1:
        name = f"β-VAE (β = {beta:g})"
    if flat.get("corruption.name", "none") != "none":
        name = "Denoising autoencoder" if name == "Autoencoder" else f"Denoising {_lower(name)}"
    return f"Conditional {_lower(name)}" if flat.get("classes") else name


def _lower(name: str) -> str:
    """Returns the name as it stands within a title: its first letter small where it begins a word."""
    return name[0].lower() + name[1:] if name[1:2].islower() and name[0] != "k" else name
