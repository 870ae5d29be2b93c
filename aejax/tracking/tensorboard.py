"""TensorBoard's events in the workdir."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# tensorboardX imports torch where that is installed, for tensors that it is never given here: seconds of every start.
if "torch" in sys.modules:
    from tensorboardX import SummaryWriter
else:
    sys.modules["torch"] = None  # type: ignore[assignment]  # "not installed"
    from tensorboardX import SummaryWriter

    del sys.modules["torch"]


class TensorBoard:
    """See `Tracker`. What a killed run wrote after `start` is hidden."""

    def __init__(self, workdir: Path, config: Mapping[str, Any], start: int, history: Any):
        self._board = SummaryWriter(str(workdir), purge_step=start + 1)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        for name, value in scalars.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        self._board.close()
