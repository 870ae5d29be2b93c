"""Workdirs as a training leaves them, without training."""

import json
from pathlib import Path

import aejax
from aejax import config as config_lib


def run(folder: Path, losses, overrides=(), **more):
    """A run that validated every tenth step; `more` metrics are those of all its validations."""
    config = aejax.config.default()
    config.unlock()
    config.steps = 10 * len(losses)
    config.update_from_flattened_dict(dict(overrides))
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(config_lib.to_json(config))
    lines = []
    for i, loss in enumerate(losses):
        lines.append({"step": 10 * (i + 1), "train/loss": loss + 1.0})
        metrics = {"loss": loss, **more}
        lines.append({"step": 10 * (i + 1), **{f"validation/{k}": v for k, v in metrics.items()}})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def sweep(root: Path, settings, values, absent=()):
    """A plan and its runs: `values[i][seed]` is the last loss of settings[i]."""
    runs = []
    for overrides, losses in zip(settings, values, strict=True):
        for seed, loss in enumerate(losses):
            each = {**overrides, "seed": seed}
            name = ",".join(f"{k.split('.')[-1]}={v}" for k, v in each.items())
            runs.append({"name": name, "overrides": each})
            if name not in absent:
                run(root / name, [2 * loss, loss], each, squared_error=loss / 2)
    config = aejax.config.default()
    config.steps = 20
    plan = {"config": config_lib.to_dict(config), "runs": runs}
    (root / "sweep.json").write_text(json.dumps(plan))
    return root


def evaluation(folder: Path, step: int, **groups):
    """An evaluation's figures: a number, or why there is none."""
    place = folder / "evaluation" / str(step)
    place.mkdir(parents=True)
    cells = {
        group: {name: {"skipped": v} if isinstance(v, str) else {"value": v} for name, v in found.items()}
        for group, found in groups.items()
    }
    (place / "metrics.json").write_text(json.dumps(cells))
