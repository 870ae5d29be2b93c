"""Tracker for MLflow, at MLFLOW_TRACKING_URI, in the experiment MLFLOW_EXPERIMENT_NAME or else "aejax"."""

import os
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from aejax import config as config_lib
from aejax.files import read_bytes, write_whole
from aejax.workdir.tracking import name_run, require, split_steps

require("mlflow")

_OPENING = threading.Lock()  # or runs that train together would all create the experiment
_MOST_METRICS, _MOST_PARAMETERS, _LONGEST = 1000, 100, 6000  # in one request; characters of a parameter


class MLflow:
    """Tracker for MLflow (see `Tracker`). The file mlflow.id in the workdir holds the run's id.

    When a run resumes, the part of its history that MLflow lacks is written. What a killed run wrote after its
    checkpoint cannot be deleted and is not written again; the values would be the same. Parameters stay those of the
    first start. A run that was deleted in MLflow, or that begins anew, gets another id.
    """

    def __init__(self, workdir: Path, config: Mapping[str, Any], start: int, history: Sequence[Mapping[str, Any]]):
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self._client, kept = MlflowClient(), workdir / "mlflow.id"
        with _OPENING:
            known = read_bytes(kept).decode(errors="replace") if start and kept.exists() else ""
            run = self._find_run(known) if known else None
            if run is None:
                run = self._client.create_run(self._find_experiment(), run_name=name_run(workdir))
                write_whole(kept, run.info.run_id)
        self._id = run.info.run_id
        self._client.update_run(self._id, status="RUNNING")
        self._done = {  # the last step of each metric
            name: max(metric.step for metric in self._client.get_metric_history(self._id, name))
            for name in run.data.metrics
        }
        values = {"workdir": workdir.resolve(), **dict(config_lib.flatten(config))}
        parameters = [Param(k, str(v)[:_LONGEST]) for k, v in values.items() if k not in run.data.params]
        for i in range(0, len(parameters), _MOST_PARAMETERS):
            self._client.log_batch(self._id, params=parameters[i : i + _MOST_PARAMETERS])
        self._write(split_steps(history))

    def _find_run(self, run_id: str) -> Any:
        """Returns the run, or None if MLflow has it no more."""
        from mlflow.exceptions import MlflowException

        try:
            run = self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        return run if run.info.lifecycle_stage == "active" else None

    def _find_experiment(self) -> str:
        """Returns the experiment's id, after creating the experiment if need be."""
        from mlflow.exceptions import MlflowException

        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "aejax")
        try:
            return self._client.create_experiment(name)
        except MlflowException:  # it exists
            found = self._client.get_experiment_by_name(name)
            if found is None:
                raise
            return found.experiment_id

    def _write(self, records: Iterable[tuple[int, Mapping[str, float]]]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [
            Metric(name, value, now, step)
            for step, scalars in records
            for name, value in scalars.items()
            if step > self._done.get(name, -1)
        ]
        for i in range(0, len(metrics), _MOST_METRICS):
            self._client.log_batch(self._id, metrics=metrics[i : i + _MOST_METRICS])

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes the scalars that MLflow lacks."""
        self._write([(step, scalars)])

    def close(self, failed: bool) -> None:
        self._client.set_terminated(self._id, "FAILED" if failed else "FINISHED")
