"""A term that compares the spectra of signals."""

from collections.abc import Sequence

from jaxtyping import Array, Float

from aejax import losses
from aejax.errors import InputError
from aejax.objectives.context import Context


def multiscale_stft(c: Context, windows: Sequence[int] = (512, 256, 128)) -> Float[Array, " batch"]:
    """Returns `losses.multiscale_stft_distance` between sequences and their reconstructions, the mean over channels.

    It is one number of about 1 for each sequence, where `reconstruction` is summed over its values.
    """
    if c.x.ndim != 3:
        raise InputError("objective.weights.multiscale_stft is for sequences [time, channels]; leave it out")
    if c.x.shape[1] < max(windows):
        raise InputError(
            f"objective.options.multiscale_stft.windows: {max(windows)} is longer than sequences of {c.x.shape[1]} "
            "time steps; give shorter ones"
        )
    decoded = c.output.decoded[0] if c.output.code.samples else c.output.decoded
    x, y = c.x.swapaxes(1, 2), c.mean(decoded).swapaxes(1, 2)
    return losses.multiscale_stft_distance(x, y, tuple(windows)).mean(1)
