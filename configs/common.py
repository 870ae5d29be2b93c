"""The former name of `aejax.presets`, for config files that import it."""

from aejax.presets import *  # noqa: F403
