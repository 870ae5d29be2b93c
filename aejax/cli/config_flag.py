"""Flags that name a config: a file, or by its name one of the configs that ship with aejax, e.g. vae or vae:tiny."""

from collections.abc import Callable
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags
from ml_collections.config_flags.config_flags import ConfigFileFlagParser

from aejax import config
from aejax.config_files import find_config
from aejax.errors import InputError

flags.disclaim_key_flags()  # --help lists the flags under their command

_DATA = {
    "name": "Data of a published model, and of no other: as data.name of a config, e.g. a folder of images.",
    "data_dir": "Folder of TFDS data sets.",
    "fit": "For images that are not square: crop, pad or stretch.",
    "train": "Its train split in TFDS syntax. Defaults to the data set's own, or to what the others leave.",
    "validation": "Its validation split, likewise.",
    "test": "Its test split, likewise.",
}


def config_flag(name: str, what: str, folder: str = "", required: bool = True) -> flags.FlagHolder:
    """Defines a flag for a config, described by `what`, whose keys are flags, too; names are those in `folder`."""
    holder = config_flags.DEFINE_config_file(name, None, what, lock_config=False, accept_new_attributes=True)
    flags.FLAGS[name].parser = _Parser(name, folder)
    if required:
        flags.mark_flag_as_required(name)
    return holder


def data_flags() -> Callable[[], ConfigDict]:
    """Defines flags for the data of a published model, whose folder names none. Returns the section that they make."""
    defaults = config.default().data
    defaults.name = ""
    holders = {key: flags.DEFINE_string(f"data.{key}", defaults[key], what) for key, what in _DATA.items()}
    sides = {
        "size": flags.DEFINE_integer(
            "data.size", defaults.size, "Side to which its images are resized. 0: as they are."
        ),
        "width": flags.DEFINE_integer(
            "data.width", defaults.width, "Width, if it is another than data.size. 0: the same."
        ),
    }

    def section() -> ConfigDict:
        return ConfigDict({**defaults, **{key: holder.value for key, holder in (holders | sides).items()}})

    return section


class _Parser(ConfigFileFlagParser):
    def __init__(self, name: str, folder: str):
        super().__init__(name, lock_config=False)
        self._folder = folder

    def parse(self, path: str) -> Any:
        """Returns the config, or raises InputError where the file cannot be read."""
        _, colon, argument = path.partition(":")
        config = super().parse(f"{find_config(path, self._folder)}{colon}{argument}")
        try:
            config.is_locked  # noqa: B018  any attribute raises where loading failed
        except OSError as error:
            raise InputError(f"the config cannot be read: {str(error.__cause__).splitlines()[-1].strip()}") from error
        return config
