"""The flag --config of the commands that train."""

from absl import flags
from ml_collections import config_flags

flags.disclaim_key_flags()  # --help lists it under the command


def config_flag(what: str) -> flags.FlagHolder:
    """Defines --config, a file that `what` describes, whose keys are flags, too; to be read by `command.loaded`."""
    flag = config_flags.DEFINE_config_file("config", None, what, lock_config=False, accept_new_attributes=True)
    flags.mark_flag_as_required("config")
    return flag
