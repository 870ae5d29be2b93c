"""Deep compression autoencoder: residual convolutions outside, linear attention inside, and averages as shortcuts.

Chen et al. 2024, "Deep compression autoencoder for efficient high-resolution diffusion models", whose parts Sana uses.
Layer for layer they are the networks of AutoencoderDC of diffusers, whose parameters `aejax.load_pretrained` reads.
Images have any sides that the downsampling divides.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from aejax.errors import InputError, shown
from aejax.models.conv import Conv
from aejax.models.efficient_vit import GatedConv, LinearAttention, PixelNorm
from aejax.models.layers import Upsample, activate, divide_sides, require_images, run_block


def pixels_to_channels(x: Array) -> Array:
    """Rearranges windows of 2x2 pixels into channels: [b, h, w, c] to [b, h/2, w/2, 4c].

    Channel l of pixel (i, j) of a window becomes channel 4l + 2i + j, which is PyTorch's order.
    """
    b, h, w, c = x.shape
    x = x.reshape(b, h // 2, 2, w // 2, 2, c)
    return x.transpose(0, 1, 3, 5, 2, 4).reshape(b, h // 2, w // 2, 4 * c)


def channels_to_pixels(x: Array) -> Array:
    """Rearranges channels into windows of 2x2 pixels: [b, h, w, 4c] to [b, 2h, 2w, c], as `pixels_to_channels` does."""
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, c // 4, 2, 2)
    return x.transpose(0, 1, 4, 2, 5, 3).reshape(b, 2 * h, 2 * w, c // 4)


def average_channels(x: Array, features: int) -> Array:
    """Averages neighboring channels, computed in float32: [..., c] to [..., features]."""
    return x.reshape(*x.shape[:-1], features, -1).astype("float32").mean(-1).astype(x.dtype)


def repeat_channels(x: Array, features: int) -> Array:
    """Repeats each channel as often as it takes: [..., c] to [..., features]."""
    return jnp.repeat(x, features // x.shape[-1], axis=-1)


class DCBlock(nn.Module):
    """A residual block: two 3x3 convolutions, or attention and a gated convolution; the shape [b, h, w, c] stays.

    Attributes:
      attention: whether the block is attention and a gated convolution.
    """

    attention: bool = False
    head_features: int = 32
    windows: Sequence[int] = ()
    activation: str = "silu"
    normalisation: str = "rms"
    dtype: DTypeLike = "float32"
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        norm = (self.normalisation, self.dtype, self.axis_name)
        if self.attention:
            x = LinearAttention(self.head_features, self.windows, *norm, name="attention")(x, train=train)
            return GatedConv(self.dtype, name="gated")(x)
        h = activate(self.activation, Conv(x.shape[-1], (3, 3), dtype=self.dtype, name="conv_0")(x))
        h = Conv(x.shape[-1], (3, 3), use_bias=False, dtype=self.dtype, name="conv_1")(h)
        return x + PixelNorm(*norm, name="norm")(h, train=train)


class HalveSides(nn.Module):
    """A 3x3 convolution that halves the sides: [b, h, w, c] to [b, h/2, w/2, features].

    Attributes:
      shuffle: True moves the 2x2 pixels of a convolution's `features` / 4 channels into channels; False convolves with
        stride 2.
      shortcut: whether x, with its 2x2 pixels moved into channels and neighboring channels averaged, is added.
    """

    features: int
    shuffle: bool = True
    shortcut: bool = True
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        if self.shuffle:
            y = pixels_to_channels(Conv(self.features // 4, (3, 3), dtype=self.dtype, name="conv")(x))
        else:
            y = Conv(self.features, (3, 3), 2, padding=1, dtype=self.dtype, name="conv")(x)
        return y + average_channels(pixels_to_channels(x), self.features) if self.shortcut else y


class DoubleSides(nn.Module):
    """A 3x3 convolution that doubles the sides: [b, h, w, c] to [b, 2h, 2w, features].

    Attributes:
      shuffle: True moves a convolution's 4 * `features` channels into 2x2 pixels; False convolves after
        nearest-neighbor upsampling.
      shortcut: whether x, with its channels repeated and moved into 2x2 pixels, is added.
    """

    features: int
    shuffle: bool = True
    shortcut: bool = True
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        if self.shuffle:
            y = channels_to_pixels(Conv(4 * self.features, (3, 3), dtype=self.dtype, name="conv")(x))
        else:
            y = Conv(self.features, (3, 3), enlarged=True, dtype=self.dtype, name="conv")(Upsample()(x))
        return y + channels_to_pixels(repeat_channels(x, 4 * self.features)) if self.shortcut else y


class DCEncoder(nn.Module):
    """Encoder of deep compression: images [batch, h, w, c] to [batch, h / 2^(n-1), w / 2^(n-1), channels].

    Each of the n entries of `features` stands for a stage of `DCBlock`s. All stages but the last end in `HalveSides`.

    Attributes:
      channels: number of output channels.
      features: width of each stage, outermost first.
      blocks: number of blocks of each stage.
      attention_stages: numbers of the stages, from 1, whose blocks are attention.
      windows: sides of the windows of `LinearAttention`, or such a list for each of `attention_stages`.
      activation, normalisation: one name, or one for each stage.
      halve_first: whether the first convolution halves the sides, too.
      shuffle: see `HalveSides`.
      shortcut: whether averages of channels are added to the code.
      symmetric: whether images, which are read in [0, 1], are scaled to [-1, 1] before the first convolution.
    """

    channels: int = 32
    features: Sequence[int] = (128, 256, 512, 512, 1024, 1024)
    blocks: Sequence[int] = (2, 2, 2, 3, 3, 3)
    attention_stages: Sequence[int] = (4, 5, 6)
    windows: Sequence[Any] = (5,)
    head_features: int = 32
    activation: str | Sequence[str] = "silu"
    normalisation: str | Sequence[str] = "rms"
    halve_first: bool = False
    shuffle: bool = True
    shortcut: bool = True
    symmetric: bool = True
    dtype: DTypeLike = "float32"
    axis_name: str | None = None
    remat: bool = False

    any_size = True

    @nn.compact
    def __call__(self, x: Array, *, keys: Array | None = None, train: bool = False) -> Array:
        _, h, w, _ = require_images(x, "DCEncoder")
        _check_stages("encoder", self, self.features[::-1])
        divide_sides(h, w, 2 ** (len(self.features) - 1 + self.halve_first), "encoder.features")
        x = 2 * x - 1 if self.symmetric else x
        if self.halve_first:
            x = HalveSides(self.features[0], self.shuffle, shortcut=False, dtype=self.dtype, name="conv_in")(x)
        else:
            x = Conv(self.features[0], (3, 3), dtype=self.dtype, name="conv_in")(x)
        for i in range(len(self.features)):
            x = _run_stage(self, x, i, train)
            if i < len(self.features) - 1:
                x = HalveSides(self.features[i + 1], self.shuffle, dtype=self.dtype, name=f"downsample_{i}")(x)
        y = Conv(self.channels, (3, 3), dtype=self.dtype, name="conv_out")(x)
        if not self.shortcut:
            return y
        _check_multiple("encoder.features", x.shape[-1], self.channels, "encoder.channels")
        return y + average_channels(x, self.channels)


class DCDecoder(nn.Module):
    """Decoder of deep compression: codes [batch, h, w, d] to images [batch, h * 2^(n-1), w * 2^(n-1), shape[-1]].

    The n stages of `features`, all of which but the first begin with `DoubleSides`, are followed by a normalization, an
    activation and a convolution.

    Attributes:
      shape: shape of one output image, (height, width, channels), of which the channels are read.
      features: width of each stage, innermost first, as in all attributes that have an entry for each stage.
      last_activation: the activation before the last convolution.
      double_last: whether the last convolution doubles the sides, too.
      shuffle: see `DoubleSides`.
      shortcut: whether the repeated channels of the code are added to the first convolution.
      symmetric: whether the last convolution gives values in [-1, 1], which are scaled to [0, 1].
    """

    shape: Sequence[int]
    features: Sequence[int] = (1024, 1024, 512, 512, 256, 128)
    blocks: Sequence[int] = (3, 3, 3, 3, 3, 3)
    attention_stages: Sequence[int] = (1, 2, 3)
    windows: Sequence[Any] = (5,)
    head_features: int = 32
    activation: str | Sequence[str] = "silu"
    normalisation: str | Sequence[str] = "rms"
    last_activation: str = "relu"
    double_last: bool = False
    shuffle: bool = True
    shortcut: bool = True
    symmetric: bool = True
    dtype: DTypeLike = "float32"
    axis_name: str | None = None
    remat: bool = False

    any_size = True

    @nn.compact
    def __call__(self, z: Array, *, train: bool = False) -> Array:
        *_, d = require_images(z, "DCDecoder")
        _check_stages("decoder", self, self.features)
        x = Conv(self.features[0], (3, 3), dtype=self.dtype, name="conv_in")(z)
        if self.shortcut:
            _check_multiple("decoder.features", self.features[0], d, "the code")
            x = x + repeat_channels(z, self.features[0]).astype(x.dtype)
        for i in range(len(self.features)):
            if i:
                x = DoubleSides(self.features[i], self.shuffle, dtype=self.dtype, name=f"upsample_{i}")(x)
            x = _run_stage(self, x, i, train)
        x = activate(self.last_activation, PixelNorm(dtype=self.dtype, name="norm")(x))
        if self.double_last:
            x = DoubleSides(self.shape[-1], self.shuffle, shortcut=False, dtype=self.dtype, name="conv_out")(x)
        else:
            x = Conv(self.shape[-1], (3, 3), dtype=self.dtype, name="conv_out")(x)
        x = x.astype(jnp.float32)
        return (x + 1) / 2 if self.symmetric else x


Part = DCEncoder | DCDecoder


def list_by_stage(name: str, value: str | Sequence[str], stages: int) -> tuple[str, ...]:
    """Returns the names of all stages, given one for all or one for each. Raises InputError for another number."""
    names = (value,) * stages if isinstance(value, str) else value
    if not isinstance(names, Sequence) or len(names) != stages or not all(isinstance(each, str) for each in names):
        raise InputError(f"{name} must be one name, or one for each of the {stages} stages, got {shown(value)}")
    return tuple(names)


def list_windows(name: str, part: Part) -> tuple[tuple[int, ...], ...]:
    """Returns the sides of the windows of all stages, none for those without attention.

    Raises InputError if there is neither one list of odd numbers nor one for each stage with attention.
    """
    stages, windows = part.attention_stages, part.windows
    nested = isinstance(windows, Sequence) and any(isinstance(sides, Sequence) for sides in windows)
    each: Any = windows if nested else (windows,) * len(stages)
    if len(each) != len(stages) or not all(_are_odd(sides) for sides in each):
        wanted = f"odd numbers, or a list of them for each of the {len(stages)} stages with attention"
        raise InputError(f"{name}.windows must be {wanted}, got {shown(part.windows)}")
    by_stage = {stage: tuple(sides) for stage, sides in zip(stages, each, strict=True)}
    return tuple(by_stage.get(i, ()) for i in range(1, 1 + len(part.features)))


def _are_odd(sides: Any) -> bool:
    return isinstance(sides, Sequence) and all(type(side) is int and side > 0 and side % 2 for side in sides)


def _check_stages(name: str, part: Part, inwards: Sequence[int]) -> None:
    """Raises InputError if the attributes of the stages contradict each other. `inwards`: widths, innermost first."""
    n = len(part.features)
    if not n or n != len(part.blocks):
        lists = f"{name}.features={tuple(part.features)} and {name}.blocks={tuple(part.blocks)}"
        raise InputError(f"{lists} must hold an entry for each stage, of which there is at least one")
    if beyond := [stage for stage in part.attention_stages if stage > n]:
        raise InputError(f"{name}.attention_stages names stage {beyond[0]}, but {name}.features has {n}")
    narrow = min((part.features[stage - 1] for stage in part.attention_stages), default=part.head_features)
    if narrow < part.head_features:
        raise InputError(f"{name}.head_features={part.head_features} is above the {narrow} channels of a stage")
    for inner, outer in itertools.pairwise(inwards):
        _check_multiple(f"{name}.features: {outer} at 2x2 pixels", 4 * outer, inner, "the next stage inwards")
    if isinstance(part, DCEncoder) and part.shuffle:
        for width in part.features[not part.halve_first :]:
            _check_multiple("encoder.features", width, 4, "encoder.shuffle=True")


def _check_multiple(what: str, value: int, divisor: int, by: str) -> None:
    if value % divisor:
        raise InputError(f"{what}: {value} channels are not divisible by the {divisor} of {by}")


def _run_stage(part: Part, x: Array, i: int, train: bool) -> Array:
    """Applies the blocks of stage i."""
    name, n = type(part).__name__[2:].lower(), len(part.features)
    activation = list_by_stage(f"{name}.activation", part.activation, n)[i]
    normalisation = list_by_stage(f"{name}.normalisation", part.normalisation, n)[i]
    windows = list_windows(name, part)[i]
    block = (i + 1 in part.attention_stages, part.head_features, windows, activation, normalisation)
    for j in range(part.blocks[i]):
        options = (*block, part.dtype, part.axis_name)
        make = lambda _, x, j=j: DCBlock(*options, name=f"block_{i}_{j}")(x, train=train)  # noqa: B023, E731
        x = run_block(part, make, x)
    return x
