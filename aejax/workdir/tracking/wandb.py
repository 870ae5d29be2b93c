"""Tracker for Weights & Biases, set up by its own variables (WANDB_MODE, ...); the project defaults to "aejax"."""

import json
import os
import secrets
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aejax.errors import StorageError
from aejax.files import read_json, write_whole
from aejax.workdir.tracking import name_run, require, split_steps

require("wandb")

_OPENING = threading.Lock()
SETTLED = 30  # seconds after which a row survives a kill, because W&B writes its file every 15


class WandB:
    """Tracker for W&B (see `Tracker`), with one row for each step.

    The file wandb.json in the workdir holds the run's id and the step up to which all rows are written. W&B neither
    deletes a row nor takes one late, so a resumed run only writes rows after the last, those of its history included.
    What a killed run wrote after its checkpoint is not written again; the values would be the same. Offline, W&B does
    not say what it has, and rows of the SETTLED seconds before a kill may occur twice. A run that begins anew gets
    another id.
    """

    def __init__(self, workdir: Path, config: Mapping[str, Any], start: int, history: Sequence[Mapping[str, Any]]):
        import wandb

        self._file = workdir / "wandb.json"
        self._kept: dict[str, Any] = {"id": secrets.token_hex(8), "step": 0}
        if start and self._file.exists():
            self._kept = read_json(self._file)
            if not (isinstance(self._kept.get("id"), str) and isinstance(self._kept.get("step"), int)):
                raise StorageError(f"{self._file} holds no id and step; remove it to begin another run in W&B")
        self._save(self._kept["step"])
        with _OPENING:  # W&B says that `init` is not thread-safe
            self._run = wandb.init(
                id=self._kept["id"],
                resume="allow",
                reinit="create_new",  # next to the runs that train together with this one
                dir=workdir,
                project=os.environ.get("WANDB_PROJECT", "aejax"),
                name=os.environ.get("WANDB_NAME", name_run(workdir)),
                config=dict(config),
                settings=wandb.Settings(console="off", silent=True),
            )
        if not self._run.offline:
            print(f"tracking by wandb: {self._run.url}", file=sys.stderr)
        self._done = max(self._kept["step"], self._run.step - 1)
        self._row: tuple[int, dict[str, float]] = (0, {})
        self._written: list[tuple[float, int]] = []  # (time, step) of rows that a kill may lose
        for step, scalars in split_steps(history):
            self.write(step, scalars)

    def _save(self, step: int) -> None:
        self._kept["step"] = step
        write_whole(self._file, json.dumps(self._kept))

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Adds the scalars to the step's row, which is written once a later step begins."""
        if step > self._done:
            if step > self._row[0]:
                self._write_row()
            self._row = (step, {**self._row[1], **scalars})

    def _write_row(self) -> None:
        step, scalars = self._row
        self._row = (0, {})
        if scalars:
            self._run.log(scalars, step=step, commit=True)
            self._written.append((time.monotonic(), step))
        while self._written and self._written[0][0] < time.monotonic() - SETTLED:
            self._save(self._written.pop(0)[1])

    def close(self, failed: bool) -> None:
        self._write_row()
        self._run.finish(exit_code=int(failed))
        if self._written:
            self._save(self._written[-1][1])
