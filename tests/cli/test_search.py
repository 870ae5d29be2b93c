"""The command of a search: as many trials as asked, through kills and beside others, and what each came to."""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
from types import SimpleNamespace

import commands
import pytest
from absl import flags
from conftest import command

import aejax
from aejax.ablation import collect
from aejax.ablation.plan import overridden
from aejax.config import to_dict
from aejax.workdir import checkpoint, lifecycle, metrics_log
from aejax.workdir.lifecycle import read_end
from configs import vae

optuna = pytest.importorskip("optuna")

from aejax.ablation.study import Study, tried  # noqa: E402

# ml-collections reads the config file by it.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

CONFIG = """
from configs import basic

def get_config(arg=""):
    config = basic.get_config("tiny").unlock()
    config.update({{"steps": 6, "log_every": 1, "checkpoint_every": 2, "keep": 1000, "optim": {{"name": "sgd"}}}})
    config.update({more})
    return config

def search(trial):
    lr = trial.suggest_float("lr", 1e-4, 1e-2, log=True)
    return {{"optim.lr": lr, **{of}.get(trial.number, {{}})}}
"""


def config_file(folder, of=None, more=None):
    """A config whose trials have further overrides by their number."""
    file = folder / "mine.py"
    file.write_text(CONFIG.format(of=of or {}, more=more or {}))
    return f"--config={file}"


@pytest.fixture
def search(monkeypatch, tmp_path):
    """Runs the command with these flags as `python -m` would; its exit status."""

    def run(*arguments, workdir="study"):
        module = command("search")
        for name in [n for n in flags.FLAGS if n.startswith("config.")]:
            delattr(flags.FLAGS, name)
        monkeypatch.setattr(sys, "argv", ["search", f"--workdir={tmp_path / workdir}", *arguments])
        try:
            module.main()
        except SystemExit as error:
            return error.code
        return 0

    return SimpleNamespace(run=run, workdir=tmp_path / "study")


def trials(workdir):
    with Study(workdir, "minimize", {}) as study:
        return study.trials


def states(workdir):
    return [trial.state.name for trial in trials(workdir)]


@pytest.mark.slow
def test_what_diverges_or_does_not_fit_is_told_and_the_study_goes_on(search, tmp_path, capsys):
    given = config_file(tmp_path, {1: {"optim.lr": 1e30}, 2: {"batch_size": 10**6}})
    assert search.run(given, "--trials=4") == 0
    assert states(search.workdir) == ["COMPLETE", "PRUNED", "FAIL", "COMPLETE"]
    told = capsys.readouterr().out
    assert "4 trials: 2 complete, 1 pruned, 1 fail\n  trial_001: failed: " in told
    assert "not finite" in told
    assert "\n  trial_002: failed: batch_size=1000000 is larger than" in told
    assert read_end(search.workdir / "trial_001").startswith("failed: ")
    assert read_end(search.workdir / "trial_002").startswith("failed: batch_size=1000000 is larger")
    found = {i: metrics_log.read(search.workdir / f"trial_{i:03d}")[-1]["validation/loss"] for i in (0, 3)}
    assert {i: trials(search.workdir)[i].value for i in found} == found

    best = min(found, key=found.get)
    assert f"the best, validation/loss {found[best]:.5g}: {search.workdir}/trial_{best:03d}\n" in told
    name, *arguments = shlex.split(told.splitlines()[-1])
    assert name == "aejax"
    status, _, errors = commands.run(*arguments)
    assert status == 0, errors
    anew = aejax.load_run(tmp_path / "study_best")
    assert to_dict(anew.config) == to_dict(aejax.load_run(search.workdir / f"trial_{best:03d}").config)

    compared = collect([search.workdir])
    assert [len(setting.trials) for setting in compared.settings] == [1, 0, 1]
    assert len(compared.notes) == 2

    assert search.run(given, "--trials=4") == 0  # nothing is left to do
    assert "trial_000: " not in capsys.readouterr().out
    assert search.run(given, "--trials=5") == 0
    assert len(trials(search.workdir)) == 5

    assert search.run(given, "--trials=5", workdir="again") == 0
    assert [t.params for t in trials(tmp_path / "again")] == [t.params for t in trials(search.workdir)]
    assert search.run(given, "--trials=1", "--seed=1", workdir="other") == 0
    assert trials(tmp_path / "other")[0].params != trials(search.workdir)[0].params
    assert len({t.params["lr"] for t in trials(search.workdir)}) == 5


@pytest.mark.slow
def test_a_trial_worse_than_the_median_ends_at_its_validation(search, tmp_path, capsys):
    slow = {number: {"optim.lr": 1e-9} for number in (5, 6)}
    given = config_file(tmp_path, slow)
    assert search.run(given, "--trials=6") == 0
    assert states(search.workdir) == ["COMPLETE"] * 5 + ["PRUNED"]
    assert checkpoint.list_steps(search.workdir / "trial_005") == [2]
    assert [sorted(t.intermediate_values) for t in trials(search.workdir)] == [[2, 4, 6]] * 5 + [[2]]
    loss = metrics_log.read(search.workdir / "trial_005")[-1]["validation/loss"]
    assert f"trial_005: pruned: validation/loss {loss:.5g} at step 2" in capsys.readouterr().out
    note = f"trial_005: pruned: validation/loss {loss:.5g} (step 2 of 6); not counted"
    assert note in collect([search.workdir]).notes
    assert search.run(given, "--trials=6") == 0  # it is not unfinished
    assert checkpoint.list_steps(search.workdir / "trial_005") == [2]
    assert search.run(given, "--trials=7", "--noprune") == 0
    assert states(search.workdir)[6] == "COMPLETE"


def test_trials_are_told_what_their_training_came_to(search, tmp_path, monkeypatch, capsys):
    """By a stand-in for training, whose second trial diverges and whose third does not fit."""
    losses = {0: 2.0, 3: 1.0}

    def train(config, folder, **_):
        number = int(folder.name.removeprefix("trial_"))
        if number == 1:
            raise aejax.DivergedError("not finite")
        if number == 2:
            raise aejax.InputError("too large")
        folder.mkdir()
        record = {"step": config.steps, "validation/loss": losses[number]}
        (folder / metrics_log.METRICS).write_text(json.dumps(record) + "\n")

    monkeypatch.setattr(aejax, "train", train)
    monkeypatch.setattr(lifecycle, "is_finished", lambda config, folder: bool(metrics_log.read(folder)))
    given = config_file(tmp_path)
    assert search.run(given, "--trials=4") == 0
    assert states(search.workdir) == ["COMPLETE", "PRUNED", "FAIL", "COMPLETE"]
    told = capsys.readouterr().out
    assert (
        "4 trials: 2 complete, 1 pruned, 1 fail\n  trial_001: failed: not finite\n  trial_002: failed: too large"
        in told
    )
    assert f"the best, validation/loss 1: {search.workdir}/trial_003\n" in told
    last = {trial.number: list(trial.intermediate_values.values()) for trial in trials(search.workdir)}
    assert (last[0], last[3]) == ([2.0], [1.0])  # later trials are compared with them
    assert search.run(given, "--trials=4") == 0  # nothing is left to do
    assert "trial_000: " not in capsys.readouterr().out


def test_the_validations_of_a_trial_are_read_when_there_is_more(monkeypatch, tmp_path):
    module, told, reads = command("search"), [], []
    trial = SimpleNamespace(report=lambda value, step: told.append((step, value)), should_prune=lambda: len(told) > 1)
    read = metrics_log.read
    monkeypatch.setattr(metrics_log, "read", lambda folder: reads.append(folder) or read(folder))
    ask = module.reports(trial, set(), tmp_path, "validation/loss")
    answers = [ask(), ask()]
    for step, loss in enumerate((3.0, 2.0), 1):
        with (tmp_path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": step, "validation/loss": loss}) + "\n")
        answers += [ask(), ask()]
    assert answers == [False] * 4 + [True] * 2
    assert told == [(1, 3.0), (2, 2.0)]
    assert len(reads) == 3


@pytest.mark.slow
def test_the_workdir_may_be_this_folder(search, tmp_path, monkeypatch, capsys):
    given = config_file(tmp_path)
    search.workdir.mkdir()
    monkeypatch.syspath_prepend(os.getcwd())
    monkeypatch.chdir(search.workdir)
    assert search.run(given, "--trials=1", "--workdir=.") == 0
    assert f"--workdir={tmp_path / 'study_best'}" in capsys.readouterr().out


LONG = {"steps": 800, "log_every": 100, "checkpoint_every": 100}


def start(tmp_path, *arguments):
    argv = ["-m", "experiments.search", f"--workdir={tmp_path / 'study'}", *arguments]
    return subprocess.Popen([sys.executable, *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGKILL, -9), (signal.SIGTERM, 75)])
def test_a_trial_under_way_is_gone_on_with(search, tmp_path, number, status):
    given = config_file(tmp_path, more=LONG)
    first, arguments = search.workdir / "trial_000", (f"--workdir={search.workdir}", given, "--trials=2")
    server, log = commands.server(), tmp_path / "log"
    process = server.begin("search", *arguments, output=log, errors=log)
    while len(checkpoint.list_steps(first)) < 2:
        assert not server.ends_within(0.02), log.read_text()
    os.kill(process, number)
    assert server.end() == status
    assert states(search.workdir) == ["RUNNING"]
    before = trials(search.workdir)[0].params
    made = {step: (first / f"checkpoints/{step}").stat().st_mtime_ns for step in checkpoint.list_steps(first)}
    assert max(made) < LONG["steps"]

    ended, out, err = commands.run("search", *arguments)
    assert ended == 0, err
    assert states(search.workdir) == ["COMPLETE"] * 2
    assert trials(search.workdir)[0].params == before
    assert checkpoint.list_steps(first)[-1] == LONG["steps"]
    assert made == {step: (first / f"checkpoints/{step}").stat().st_mtime_ns for step in made}
    assert "2 trials: 2 complete" in out


@pytest.mark.slow
def test_processes_share_the_trials_and_what_one_leaves_another_takes(tmp_path, request):
    code = f"""
from pathlib import Path
from aejax.ablation.study import Study
study = Study(Path({str(tmp_path)!r}), "minimize", {{}})
trial = study.claim(3)
print(trial and trial.number, flush=True)
"""

    def other():
        return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()

    study = Study(tmp_path, "minimize", {})
    request.addfinalizer(study.__exit__)
    mine = study.claim(3)
    assert mine.number == 0
    mine.suggest_float("x", 0, 1)
    assert other() == "1"  # and ends without a word of what it came to
    study.tell(mine, value=1.0)
    assert study.claim(3).number == 1
    assert other() == "2"
    study.tell(study.claim(3), failed="no")  # until then its own comes first
    study.tell(study.claim(3), pruned="no")
    assert study.claim(3) is None
    assert other() == "None"
    assert [t.state.name for t in study.trials] == ["COMPLETE", "FAIL", "PRUNED"]


@pytest.mark.slow
def test_commands_at_once_do_each_trial_once(search, tmp_path):
    given = config_file(tmp_path)
    processes = [start(tmp_path, given, "--trials=4") for _ in range(2)]
    told = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told
    done = [line.split(":")[0] for out, _ in told for line in out.splitlines() if line.startswith("trial_")]
    assert sorted(done) == [f"trial_{i:03d}" for i in range(4)]
    assert states(search.workdir) == ["COMPLETE"] * 4


TELLS = """
import sys
from pathlib import Path
from aejax.ablation.study import Study

with Study(Path(sys.argv[1]), "minimize", {}) as study:
    trial = study.claim(2)
    print("claimed", flush=True)
    sys.stdin.readline()
    study.tell(trial, value=1.0)
"""


@pytest.mark.slow
def test_a_trial_that_ends_while_another_process_claims_is_not_given_out_again(tmp_path, monkeypatch):
    arguments = [sys.executable, "-c", TELLS, str(tmp_path)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "claimed\n"
        with Study(tmp_path, "minimize", {}) as study:
            seen = study.trials

            def trials_of_just_before(_):
                other.stdin.close()  # it tells now
                with contextlib.suppress(subprocess.TimeoutExpired):
                    other.wait(3)
                return seen

            with monkeypatch.context() as patch:
                patch.setattr(Study, "trials", property(trials_of_just_before))
                assert study.claim(2).number == 1
            assert other.wait() == 0
            assert [trial.state.name for trial in study.trials] == ["COMPLETE", "RUNNING"]


@pytest.mark.slow
def test_mistakes(search, tmp_path, monkeypatch):
    assert "configs/basic.py:tiny has no search(trial)" in search.run("--config=configs/basic.py:tiny")
    file = tmp_path / "mine.py"
    for returns, message in {
        "{'optim.lrr': 1.0}": "did you mean 'optim.lr'",
        "{'optim.lr': 'a'}": "the key optim.lr holds a float; 'a' does not fit",
        "trial.suggest(1)": "search(trial) of the config raised AttributeError",
        "3": "returned 3; return overrides",
        "{'objective.weights.l1': 0.1}": "validation/loss means something else for each objective.weights.l1, which "
        "search(trial) sets; choose --objective=validation/squared_error, or leave them out",
        "{'likelihood': {'name': 'laplace'}}": "validation/loss means something else for each likelihood.name",
        "{'data.size': 8}": "validation/loss means something else for each data.size, which search(trial) sets; leave",
    }.items():
        head = CONFIG[: CONFIG.index("def search")].format(of={}, more={})
        file.write_text(f"{head}def search(trial):\n    return {returns}\n")
        status = search.run(f"--config={file}")
        assert message in status
        assert "\n" not in status
    given = config_file(tmp_path)
    assert "did you mean 'validation/squared_error'" in search.run(given, "--objective=validation/squared_eror")
    assert not search.workdir.exists()
    assert "no validation has --objective=validation/psnr" in search.run(given, "--objective=validation/psnr")
    assert "another objective (validation/psnr -> validation/loss)" in search.run(given)
    assert search.run(given, "--trials=1", workdir="b") == 0
    status = search.run(config_file(tmp_path, more={"batch_size": 8}), workdir="b")
    assert "holds a study of another config (batch_size: 16 -> 8); choose another workdir" in status
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert search.run(given) == "error: a search needs optuna: pip install optuna"


def test_the_search_that_comes_with_the_vae_fits_it():
    config = overridden(vae.get_config(), tried(vae.search))
    assert config.decoder.features == config.encoder.features[::-1]
    assert config.objective == vae.get_config().objective  # or the losses would not compare


@pytest.mark.slow
def test_overrides_of_whole_sections_are_trained_anew_by_their_config(search, tmp_path, capsys):
    section = {"encoder": {"name": "mlp", "features": [2]}}
    assert search.run(config_file(tmp_path, {0: section}), "--trials=1") == 0
    line = capsys.readouterr().out.splitlines()[-1]
    subprocess.run([sys.executable, *shlex.split(line)[1:]], check=True, capture_output=True, env={**os.environ})
    config = json.loads((tmp_path / "study_best/config.json").read_text())
    assert config == json.loads((search.workdir / "trial_000/config.json").read_text())
