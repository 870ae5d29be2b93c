"""Trackers beside TensorBoard: that they have what metrics.jsonl has, on resume too, and cannot harm the training."""

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
from conftest import assert_trees_equal, mlp, mostly_slow, one_device, vectors

import aejax
from aejax import data
from aejax.ablation.plan import plan
from aejax.training.vmapped import train_together
from aejax.workdir import checkpoint, metrics_log, tracking

needs_wandb = pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="pip install wandb")
needs_mlflow = pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="pip install mlflow")
ITS_OWN = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")  # of MLflow's SQLAlchemy


def train(config, workdir, stop=lambda: False):
    splits = data.split({"train": data.from_array(vectors())}, config.data)
    return aejax.train(config, workdir, data=splits, devices=one_device(), stop=stop, quiet=True)


def after(dispatches):
    """A `stop` that says yes after so many questions; a dispatch of `mlp()` is two steps."""
    left = iter(range(dispatches - 1))
    return lambda: next(left, None) is None


def told(workdir):
    """The values of metrics.jsonl by name and step."""
    return {(k, r["step"]): v for r in metrics_log.read(workdir) for k, v in r.items() if k != "step"}


# Each service: what it has of the run of a workdir, as (name, step, value) one by one.


class Mine:
    """A user's own, of a few lines."""

    instances: ClassVar[list] = []

    def __init__(self, workdir, config, start, history):
        self.workdir, self.config, self.start, self.history, self.rows = workdir, config, start, history, []
        self.thread = threading.current_thread()
        type(self).instances.append(self)

    def write(self, step, scalars):
        self.rows += [(name, step, value) for name, value in scalars.items()]

    def close(self, failed):
        self.failed = failed


class Failing(Mine):
    instances: ClassVar[list] = []

    def write(self, step, scalars):
        if step > 2:
            raise ConnectionError("the service\nis gone")
        super().write(step, scalars)


class NeverThere(Failing):
    def __init__(self, *_):
        raise ConnectionError("no route")


class Hanging(Mine):
    def write(self, step, scalars):
        threading.Event().wait(60)


@pytest.fixture(autouse=True)
def _no_instances():
    Mine.instances, Failing.instances = [], []


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory):
    """Making its tables takes seconds."""
    from mlflow import MlflowClient

    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def mlflow(tmp_path_factory, monkeypatch, empty_store):
    copied = shutil.copy(empty_store, tmp_path_factory.mktemp("store"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{copied}")


@pytest.fixture
def wandb(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")


def mlflow_runs():
    from mlflow import MlflowClient

    client = MlflowClient()
    experiment = client.get_experiment_by_name("aejax")
    return client.search_runs([experiment.experiment_id], order_by=["attributes.start_time"]) if experiment else []


def in_mlflow(run):
    from mlflow import MlflowClient

    found = [MlflowClient().get_metric_history(run.info.run_id, name) for name in run.data.metrics]
    return [(m.key, m.step, m.value) for history in found for m in history]


def wandb_records(file):
    """The records of a .wandb file, a log of LevelDB's form behind seven bytes."""
    from wandb.proto import wandb_internal_pb2

    content, at, record = file.read_bytes(), 7, b""
    while at + 7 <= len(content):
        left = 2**15 - at % 2**15
        _, length, kind = struct.unpack("<IHB", content[at : at + 7])
        if left < 7 or kind == 0:
            at += left
            continue
        record, at = record + content[at + 7 : at + 7 + length], at + 7 + length
        if kind in (1, 4):  # whole, or the last of its parts
            yield wandb_internal_pb2.Record.FromString(record)
            record = b""


def wandb_sessions(workdir):
    """Of each start W&B's files tell of, oldest first: the run's id, name and config, its rows, its exit status."""
    import wandb

    wandb.teardown()  # waits until W&B's own process has written what it was given
    sessions = []
    for file in workdir.glob("wandb/offline-run-*/run-*.wandb"):  # two of one second: the names do not tell
        rows, run, config, status = [], None, {}, None
        for record in wandb_records(file):
            if record.HasField("run"):
                run = record.run
                config |= {u.key: json.loads(u.value_json) for u in run.config.update}
            if record.HasField("exit"):
                status = record.exit.exit_code
            if record.HasField("history"):
                items = {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}
                rows += [(k, items["_step"], v) for k, v in items.items() if not k.startswith("_")]
        if run:
            sessions.append((run, config, rows, status))
    return sorted(sessions, key=lambda session: session[0].start_time.ToNanoseconds())


def assert_has(rows, workdir):
    """Each value of metrics.jsonl once, and nothing else."""
    assert sorted((name, step) for name, step, _ in rows) == sorted(told(workdir))
    for name, step, value in rows:
        assert name == "images_per_second" or value == pytest.approx(told(workdir)[name, step], rel=1e-6)


# The interface


@pytest.mark.slow
def test_a_users_own_is_given_the_run_and_its_scalars_and_goes_on(tmp_path):
    config = mlp(tracking=("test_tracking:Mine",))
    train(config, tmp_path, after(3))
    train(config, tmp_path)
    first, second = sys.modules["test_tracking"].Mine.instances
    assert (first.workdir, first.start, first.history) == (tmp_path, 0, [])
    assert first.config["encoder"]["features"] == [5]
    assert second.start == 6
    assert [r["step"] for r in second.history] == [2, 4, 4, 6]
    assert_has(first.rows + second.rows, tmp_path)
    assert [first.failed, second.failed] == [False, False]
    assert first.thread is not threading.main_thread()


@pytest.mark.slow
@ITS_OWN
@pytest.mark.parametrize("service", ["mine", pytest.param("mlflow", marks=needs_mlflow)])
def test_a_run_that_an_error_ended_has_failed_there_the_others_beside_it_have_not(tmp_path, service, request):
    if service == "mlflow":
        request.getfixturevalue("mlflow")
    base = mlp(optim__name="sgd", tracking=(service.replace("mine", "test_tracking:Mine"),))
    configs = [run.config for run in plan(aejax.config.lock(base), [{"optim.lr": 1e-3}, {"optim.lr": 1e30}])]
    splits = data.split({"train": data.from_array(vectors())}, base.data)
    given = {"data": splits, "devices": one_device(), "quiet": True}
    train_together(configs, [tmp_path / "0", tmp_path / "1"], **given)
    with pytest.raises(ZeroDivisionError):
        aejax.train(configs[0], tmp_path / "2", **given, stop=lambda: 1 / 0)
    ended = {tracker.workdir.name: tracker.failed for tracker in sys.modules["test_tracking"].Mine.instances}
    if service == "mlflow":
        ended = {run.info.run_name[-1]: run.info.status == "FAILED" for run in mlflow_runs()}
    assert ended == {"0": False, "1": True, "2": True}


@pytest.mark.parametrize("failed", [False, True])
def test_a_tracker_is_told_whether_an_error_ended_the_run(failed, tmp_path):
    mine = Mine(tmp_path, {}, 0, [])
    with contextlib.suppress(ZeroDivisionError), tracking.Background("mine", lambda: mine):
        1 / (not failed)
    assert mine.failed is failed


@pytest.mark.slow
def test_trackers_may_change_and_change_no_bit(tmp_path):
    train(mlp(tracking=("test_tracking:Mine",)), tmp_path / "cut", after(2))
    train(mlp(), tmp_path / "cut")
    train(mlp(), tmp_path / "whole")
    a, b = (checkpoint.load_newest(tmp_path / name) for name in ("cut", "whole"))
    assert_trees_equal(a.state, b.state)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Failing", "tracking by test_tracking:Failing failed (ConnectionError: the service is gone); the run goes on"),
        ("NeverThere", "tracking by test_tracking:NeverThere failed (ConnectionError: no route); the run goes on"),
        ("Hanging", "tracking by test_tracking:Hanging did not end within 0.1 seconds; the run goes on"),
    ],
)
def test_one_that_fails_is_told_of_once_and_the_run_is_whole(tmp_path, monkeypatch, name, said):
    monkeypatch.setattr(tracking, "PATIENCE", 0.1)
    config = mlp(tracking=(f"test_tracking:{name}", "test_tracking:Mine"), log_every=1)
    with pytest.warns(UserWarning, match="tracking by") as warned:
        assert train(config, tmp_path).step == 8
    assert len(warned) == 1
    assert str(warned[0].message).startswith(said)
    assert_has(sys.modules["test_tracking"].Mine.instances[-1].rows, tmp_path)  # the other one went on


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("wandbb",), "tracking 'wandbb' is unknown; did you mean 'wandb'"),
        (("nowhere:Tracker",), "'nowhere:Tracker' cannot be imported"),
    ],
)
def test_wrong_names_are_told_before_anything_is_written(tmp_path, names, message):
    with pytest.raises(aejax.InputError, match=message):
        train(mlp(tracking=names), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("wrapped", [lambda text: (text,), str, lambda text: text.split(","), lambda text: [text, ""]])
def test_names_are_separated_by_commas(wrapped):
    names = ["test_tracking:Mine", "test_tracking:Failing"]
    for comma in (",", ", "):
        assert list(tracking.resolve_trackers(wrapped(comma.join(names)))) == ["tensorboard", *names]


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_is_told_before_anything_is_written(tmp_path, monkeypatch, name):
    monkeypatch.delitem(sys.modules, f"aejax.workdir.tracking.{name}", raising=False)
    (tmp_path / name).mkdir()  # what W&B leaves in a working directory is no package
    empty = importlib.machinery.PathFinder.find_spec(name, [str(tmp_path)])
    for found in (None, empty):
        monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda _, found=found: found)
        with pytest.raises(aejax.InputError, match=f"^tracking by {name} needs {name}: pip install {name}$"):
            train(mlp(tracking=(name,)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_none_is_imported_by_import_aejax():
    code = "import sys, aejax; aejax.train; print({'wandb', 'mlflow', 'tensorboardX', 'torch'} & set(sys.modules))"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout == "set()\n"


# MLflow


@pytest.mark.slow
@needs_mlflow
@ITS_OWN
def test_mlflow_has_the_run_and_goes_on_with_it(tmp_path, mlflow):
    config = mlp(tracking=("mlflow",))
    workdir = tmp_path / "runs/one"
    train(config, workdir, after(3))
    with (workdir / "metrics.jsonl").open("a") as file:  # as a killed run leaves it
        file.write('{"step": 8, "train/loss": 1.0}\n')
    train(config, workdir)
    (run,) = mlflow_runs()
    assert run.info.run_name == "runs/one"
    assert run.info.status == "FINISHED"
    assert run.data.params["encoder.features"] == "[5]"
    assert run.data.params["workdir"] == str(workdir)
    assert_has(in_mlflow(run), workdir)


@needs_mlflow
@ITS_OWN
def test_mlflow_is_given_the_parameters_that_its_run_lacks(tmp_path, monkeypatch):
    from aejax.workdir.tracking import mlflow as module

    given = {}
    run = SimpleNamespace(
        info=SimpleNamespace(run_id="a", lifecycle_stage="active"),
        data=SimpleNamespace(params={"seed": "0"}, metrics={}),
    )
    client = SimpleNamespace(
        get_run=lambda run_id: run,
        update_run=lambda run_id, status: None,
        log_batch=lambda run_id, params: given.update((p.key, p.value) for p in params),
    )
    monkeypatch.setattr("mlflow.MlflowClient", lambda: client)
    (tmp_path / "mlflow.id").write_text("a")
    module.MLflow(tmp_path, {"seed": 0, "optim": {"lr": 0.1}}, 2, [])
    assert given == {"workdir": str(tmp_path), "optim.lr": "0.1"}


@pytest.mark.slow
@needs_mlflow
@ITS_OWN
def test_mlflow_is_not_given_again_what_a_killed_run_wrote_and_is_given_what_it_lacks(tmp_path, mlflow, monkeypatch):
    """At the checkpoint of step 4 it lacks step 2, and has step 6 already."""
    from mlflow import MlflowClient

    train(mlp(), tmp_path, after(2))  # without
    run_id = MlflowClient().create_run(MlflowClient().create_experiment("aejax")).info.run_id
    (tmp_path / "mlflow.id").write_text(run_id)
    for step in (4, 6):
        MlflowClient().log_metric(run_id, "train/loss", 7.0, step=step)
    train(mlp(tracking=("mlflow",)), tmp_path)
    (run,) = mlflow_runs()
    rows = in_mlflow(run)
    assert sorted(step for name, step, _ in rows if name == "train/loss") == [4, 6, 8]
    assert sorted(step for name, step, _ in rows if name == "train/reconstruction") == [2, 4, 6, 8]


@pytest.mark.slow
@needs_mlflow
@ITS_OWN
def test_mlflow_added_late_or_emptied_has_the_whole_run(tmp_path, mlflow):
    from mlflow import MlflowClient

    train(mlp(), tmp_path, after(2))
    train(mlp(tracking=("mlflow",)), tmp_path, after(1))
    MlflowClient().delete_run(mlflow_runs()[0].info.run_id)
    train(mlp(tracking=("mlflow",)), tmp_path)
    (run,) = mlflow_runs()
    assert_has(in_mlflow(run), tmp_path)


@pytest.mark.slow
@needs_mlflow
@ITS_OWN
def test_an_id_that_is_cut_off_while_it_is_written_is_none(tmp_path, mlflow, monkeypatch):
    from aejax.workdir.tracking import mlflow as module

    def cut_off(file, text):
        file.touch()
        raise OSError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_whole", cut_off)
        with pytest.warns(UserWarning, match="mlflow.*killed"):
            train(mlp(tracking=("mlflow",)), tmp_path, after(1))
    (tmp_path / "mlflow.id").touch()  # as an earlier version left it
    train(mlp(tracking=("mlflow",)), tmp_path)
    run_id = (tmp_path / "mlflow.id").read_text()
    (run,) = (run for run in mlflow_runs() if run.info.run_id == run_id)
    assert_has(in_mlflow(run), tmp_path)


# Weights & Biases


@pytest.mark.slow
@needs_wandb
def test_wandb_has_the_run_and_goes_on_with_it(tmp_path, wandb):
    workdir = tmp_path / "runs/one"
    train(mlp(), workdir, after(1))  # before it was named
    train(mlp(tracking=("wandb",)), workdir, after(1))
    train(mlp(tracking=("wandb",)), workdir)
    (one, config, first, _), (two, _, second, _) = wandb_sessions(workdir)
    assert one.run_id == two.run_id == json.loads((workdir / "wandb.json").read_text())["id"]
    assert (one.project, one.display_name) == ("aejax", "runs/one")
    assert config["encoder"]["features"] == [5]
    assert_has(first + second, workdir)


@needs_wandb
def test_what_is_written_of_a_step_is_one_row_of_wandbs(tmp_path, monkeypatch):
    """W&B takes a step's row once: what came for it later would be lost."""
    from aejax.workdir.tracking import wandb as module

    rows = []
    log = lambda scalars, step, commit: rows.append((step, scalars))  # noqa: E731
    run = SimpleNamespace(offline=True, step=0, log=log, finish=lambda exit_code: None)
    monkeypatch.setattr("wandb.init", lambda **_: run)
    tracker = module.WandB(tmp_path, {}, 0, [])
    for step, name in ((2, "train/loss"), (2, "validation/loss"), (4, "train/loss")):
        tracker.write(step, {name: float(step)})
    assert rows == [(2, {"train/loss": 2.0, "validation/loss": 2.0})]
    tracker.close(failed=False)
    assert rows[1:] == [(4, {"train/loss": 4.0})]


@pytest.mark.slow
@needs_wandb
def test_a_run_that_begins_anew_is_another_one_in_wandb(tmp_path, wandb):
    for lr in (1e30, 1e-3):
        try:
            train(mlp(tracking=("wandb",), optim__name="sgd", optim__lr=lr), tmp_path)
        except aejax.DivergedError:
            continue
    (one, _, _, failed), (two, _, rows, finished) = wandb_sessions(tmp_path)
    assert one.run_id != two.run_id
    assert (failed, finished) == (1, 0)
    assert_has(rows, tmp_path)


@pytest.mark.slow
@needs_wandb
@pytest.mark.parametrize(("settled", "steps"), mostly_slow([(-1, [6, 8]), (1000, [2, 4, 6, 8])]))
def test_after_a_kill_wandb_is_given_again_what_may_be_lost(tmp_path, wandb, monkeypatch, settled, steps):
    from aejax.workdir.tracking import wandb as module

    monkeypatch.setattr(module, "SETTLED", settled)
    scalars = {"train/loss": 1.0}
    killed = module.WandB(tmp_path, {}, 0, [])
    for step in (2, 4, 6):  # the row of step 6 is begun, no more
        killed.write(step, scalars)
    killed._run.finish()
    again = module.WandB(tmp_path, {}, 4, [{"step": step, **scalars} for step in (2, 4)])
    for step in (6, 8):
        again.write(step, scalars)
    again.close(failed=False)
    assert [step for _, step, _ in wandb_sessions(tmp_path)[1][2]] == steps
    assert json.loads((tmp_path / "wandb.json").read_text())["step"] == 8


@needs_wandb
@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"id": 3, "step": 1}', b'{"id": "a", "step": "b"}'])
def test_a_damaged_note_of_wandbs_is_one_line(tmp_path, content):
    from aejax.workdir.tracking import wandb as module

    (tmp_path / "wandb.json").write_bytes(content)
    with pytest.raises(aejax.StorageError, match=r"wandb\.json"):
        module.WandB(tmp_path, {}, 4, [])
    assert (tmp_path / "wandb.json").read_bytes() == content


# Both


@pytest.mark.slow
@needs_wandb
@needs_mlflow
@ITS_OWN
def test_runs_that_train_together_are_each_one_of_its_own(tmp_path, wandb, mlflow):
    base = aejax.config.lock(mlp(tracking=("wandb", "mlflow")))
    configs = [run.config for run in plan(base, [{"optim.lr": 1e-3}, {"optim.lr": 1e-2}, {"optim.lr": 1e-1}])]
    folders = [tmp_path / str(i) for i in range(3)]
    splits = data.split({"train": data.from_array(vectors())}, base.data)
    for stop in (after(2), lambda: False):
        train_together(configs, folders, data=splits, devices=one_device(), stop=stop, quiet=True)
    runs = {run.data.params["workdir"]: run for run in mlflow_runs()}
    assert len(runs) == 3
    for folder, config in zip(folders, configs, strict=True):
        run = runs[str(folder)]
        assert run.data.params["optim.lr"] == str(config.optim.lr)
        assert_has(in_mlflow(run), folder)
        (_, values, first, _), (_, _, second, _) = wandb_sessions(folder)
        assert values["optim"]["lr"] == config.optim.lr
        assert_has(first + second, folder)


KILLED = """
import os, signal, sys
import conftest, test_tracking
from aejax.workdir.tracking import Background

workdir, write = test_tracking.Path(sys.argv[1]), Background.write

def killed(self, step, scalars):
    write(self, step, scalars)
    if step == 6 and self._name == "mlflow":  # the checkpoint is of step 4
        while not any(s == 6 for run in test_tracking.mlflow_runs() for _, s, _ in test_tracking.in_mlflow(run)):
            pass
        while 4 not in test_tracking.checkpoint.list_steps(workdir):
            pass
        os.kill(os.getpid(), signal.SIGKILL)

Background.write = killed
test_tracking.train(conftest.mlp(tracking=("wandb", "mlflow")), workdir)
"""


@pytest.mark.slow
@needs_wandb
@needs_mlflow
@ITS_OWN
def test_kill_9_and_on_again(tmp_path, wandb, mlflow):
    paths = [str(Path(__file__).parents[i]) for i in range(3)]
    environment, workdir = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}, tmp_path / "run"
    environment.pop("WANDB_SERVICE", None)  # the process of this program, which would not die with the killed one
    arguments = [sys.executable, "-c", KILLED, str(workdir)]
    killed = subprocess.run(arguments, env=environment, stderr=subprocess.PIPE, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert checkpoint.list_steps(workdir) == [4]
    train(mlp(tracking=("wandb", "mlflow")), workdir)
    (run,) = mlflow_runs()
    assert_has(in_mlflow(run), workdir)
    *_, (again, _, rows, status) = wandb_sessions(workdir)  # the killed one's file may have nothing yet
    assert (again.run_id, status) == (json.loads((workdir / "wandb.json").read_text())["id"], 0)
    assert_has(rows, workdir)
