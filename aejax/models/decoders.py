"""Decoders: from a code to the parameters of the likelihood of the input, [batch, *shape]."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from aejax.errors import InputError
from aejax.models.conv import Conv
from aejax.models.dc import DCDecoder
from aejax.models.dcgan import DCGANDecoder
from aejax.models.dictionary import DictionaryDecoder
from aejax.models.kl import KLDecoder
from aejax.models.ladder import PyramidDecoder
from aejax.models.layers import (
    Dense,
    Normalization,
    TiedDense,
    Upsample,
    activate,
    crop,
    divide_up,
    flatten,
    make_units,
    must_update,
    pad_convolution,
    require_grid_shape,
    run_block,
    write_sizes,
)
from aejax.models.resnet import ResNetDecoder
from aejax.models.sequence import RNNDecoder, SequenceDecoder
from aejax.models.taesd import TinyDecoder
from aejax.models.vit import ViTDecoder


class MLPDecoder(nn.Module):
    """Dense layers from a code to the input's shape: [batch, ...] to [batch, *shape].

    Attributes:
      shape: shape of one output example.
      features: widths of the hidden layers, each followed by `activation`.
      output: activation of the last layer; "linear" gives logits.
      tied: whether the kernels are the transposes of the encoder's, which a call receives as `kernels`, innermost
        first; only the biases are parameters (Vincent et al. 2010, section 2.2).
      spectral: whether each kernel is divided by its largest singular value (Miyato et al. 2018).
      units: of the hidden layers: "dense", "gated" or "maxout", see `make_units`.
    """

    shape: Sequence[int]
    features: Sequence[int] = ()
    activation: str = "relu"
    output: str = "linear"
    tied: bool = False
    spectral: bool = False
    normalisation: str = "none"
    dtype: DTypeLike = "float32"
    axis_name: str | None = None
    remat: bool = False
    units: str = "dense"

    @nn.compact
    def __call__(self, z: Array, kernels: Sequence[Array] = (), *, train: bool = False) -> Array:
        x = flatten(z)
        widths = (*self.features, math.prod(self.shape))
        if self.spectral:
            must_update(self, "batch_stats", train)
        if self.units != "dense" and (self.tied or self.spectral):
            raise InputError(f"decoder.units={self.units!r} goes with neither tied nor spectral; set these to False")
        if self.tied and [k.shape[0] for k in kernels] != list(widths):
            raise InputError(
                f"decoder.tied needs an encoder that mirrors the decoder's widths {widths}, innermost first; "
                f"its kernels are {[tuple(k.shape) for k in kernels]}"
            )
        for i, width in enumerate(widths):
            kernel = kernels[i] if self.tied else None
            x = run_block(self, functools.partial(MLPDecoder._layer, i=i, width=width, kernel=kernel, train=train), x)
        return x.reshape(x.shape[0], *self.shape)

    def _layer(self, x: Array, i: int, width: int, kernel: Array | None, train: bool) -> Array:
        name = f"dense_{i}"
        if kernel is not None:
            x = TiedDense(self.dtype, name=name)(x, kernel)
        elif self.spectral:
            dense = Dense(width, dtype=self.dtype, name=name)
            x = nn.SpectralNorm(dense, collection_name="batch_stats", name=f"spectral_{i}")(x, update_stats=train)
        else:
            x = make_units(self.units if i < len(self.features) else "dense", width, self.dtype, i, x)
        if i < len(self.features):
            x = Normalization(self.normalisation, self.dtype, self.axis_name, name=f"norm_{i}")(x, train=train)
        return activate(self.activation if i < len(self.features) else self.output, x)


class LibraryDecoder(nn.Module):
    """Dense layers from a code to log means of counts, to whose fractions it adds the log library size.

    Attributes:
      shape: shape of the likelihood's parameters.
      features, activation, normalisation: see `MLPDecoder`.
      code: number of units of the code before the log library size; labels follow it.
      parameters: number of decoded parameters of each count; the first are the means.
    """

    shape: Sequence[int]
    code: int
    features: Sequence[int] = (128,)
    parameters: int = 1
    activation: str = "relu"
    normalisation: str = "none"
    dtype: DTypeLike = "float32"
    axis_name: str | None = None

    @nn.compact
    def __call__(self, z: Array, *, train: bool = False) -> Array:
        if math.prod(self.shape) % self.parameters:
            raise InputError(f"decoder.parameters={self.parameters} does not divide the decoded {tuple(self.shape)}")
        library, z = z[:, self.code : self.code + 1], jnp.delete(z, self.code, axis=1)
        options: dict[str, Any] = {"dtype": self.dtype, "axis_name": self.axis_name, "name": "network"}
        network = MLPDecoder(self.shape, self.features, self.activation, normalisation=self.normalisation, **options)
        decoded = network(z, train=train).astype(jnp.float32)
        logits, others = jnp.split(decoded, [decoded.shape[-1] // self.parameters], -1)
        return jnp.concatenate([jax.nn.log_softmax(logits) + library.astype(jnp.float32), others], -1)


class ConvDecoder(nn.Module):
    """Convolutional decoder with upsampling: [batch, h, w, c] to [batch, h * 2^n, w * 2^n, shape[-1]].

    Each of the n entries of `features` stands for convolution, normalization, activation and upsampling; one more
    convolution makes the image's channels. A flat code [batch, d] is first projected to the smallest image by a dense
    layer. Sequences and volumes are made likewise. Sizes that 2^n does not divide are rounded up and then cropped.

    Attributes:
      shape: shape of one output, (height, width, channels), (time, channels) or (depth, height, width, channels).
      output: activation of the last convolution; "linear" gives logits.
      causal: whether no time step reads positions of the code that are later, see `ConvEncoder`.
    """

    shape: Sequence[int]
    features: Sequence[int] = (128, 64)
    kernel: int = 3
    activation: str = "relu"
    output: str = "linear"
    normalisation: str = "none"
    dtype: DTypeLike = "float32"
    axis_name: str | None = None
    remat: bool = False
    causal: bool = False

    @nn.compact
    def __call__(self, z: Array, *, train: bool = False) -> Array:
        sizes, c = require_grid_shape(self.shape, "ConvDecoder")
        small = divide_up(sizes, 2 ** len(self.features))
        if z.ndim == 2:
            z = Dense(math.prod(small) * self.features[0], dtype=self.dtype, name="project")(z)
            z = activate(self.activation, z).reshape(-1, *small, self.features[0])
        if z.shape[1:-1] != small:
            raise InputError(
                f"ConvDecoder upsamples {len(self.features)} times, so that a code of {z.shape[1:]} does not "
                f"become an output of {write_sizes(sizes)}; give encoder.features and decoder.features the same length"
            )
        x = z
        for i in range(len(self.features)):
            x = run_block(self, functools.partial(ConvDecoder._stage, i=i, train=train), x)
        x = crop(self._convolve(x, len(self.features), c), sizes)
        return activate(self.output, x)

    def _stage(self, x: Array, i: int, train: bool) -> Array:
        x = self._convolve(x, i, self.features[i])
        x = Normalization(self.normalisation, self.dtype, self.axis_name, name=f"norm_{i}")(x, train=train)
        return Upsample(name=f"upsample_{i}")(activate(self.activation, x))

    def _convolve(self, x: Array, i: int, width: int) -> Array:
        kernel = (self.kernel,) * (x.ndim - 2)
        padding = pad_convolution(self.causal, len(kernel), self.normalisation)
        return Conv(width, kernel, padding=padding, enlarged=i > 0, dtype=self.dtype, name=f"conv_{i}")(x)


DECODERS: dict[str, type[nn.Module]] = {
    "mlp": MLPDecoder,
    "library": LibraryDecoder,
    "dictionary": DictionaryDecoder,
    "conv": ConvDecoder,
    "resnet": ResNetDecoder,
    "vit": ViTDecoder,
    "rnn": RNNDecoder,
    "transformer": SequenceDecoder,
    "kl": KLDecoder,
    "taesd": TinyDecoder,
    "dc": DCDecoder,
    "pyramid": PyramidDecoder,
    "dcgan": DCGANDecoder,
}
