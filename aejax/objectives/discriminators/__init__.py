"""Discriminators that are trained along with the autoencoder, and the terms that they give it."""

from aejax.objectives.discriminators.discriminator import VAEGAN, AdversarialAutoencoder, Discriminator, FactorVAE
from aejax.objectives.discriminators.patchgan import PatchGAN

__all__ = ["DISCRIMINATORS", "VAEGAN", "AdversarialAutoencoder", "Discriminator", "FactorVAE", "PatchGAN"]

DISCRIMINATORS: dict[str, type[Discriminator]] = {
    "factor_vae": FactorVAE,
    "aae": AdversarialAutoencoder,
    "vae_gan": VAEGAN,
    "patchgan": PatchGAN,
}
