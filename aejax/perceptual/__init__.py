"""LPIPS, the learned distance between images of Zhang et al. 2018, and its published weights.

    from aejax import perceptual

    weights = perceptual.load("vgg")
    distance = perceptual.LPIPS("vgg").apply(weights, x, y)  # [batch], of images [batch, height, width, 3] in [0, 1]

Pass the weights to the function that is jitted as an argument: as constants, 59 MB of VGG16, they make the program
larger and slower to compile.
"""

from aejax.perceptual.network import LEAST, LPIPS, NETWORKS, VGG16, AlexNet, check_images
from aejax.perceptual.weights import load

__all__ = ["LEAST", "LPIPS", "NETWORKS", "VGG16", "AlexNet", "check_images", "load"]
