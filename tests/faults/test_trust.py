"""Workdirs and data from anyone: what they hold is read, and none of it is run."""

import ast
import json
import os
import pickle
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import commands
import numpy as np
import pytest
from conftest import mlp, mostly_slow, vectors
from runs import ROOT, train

import aejax
from aejax import data
from aejax.workdir import checkpoint

MINE = """
import aejax, flax.linen, pathlib
pathlib.Path({touched!r}).touch()
class Bottleneck(flax.linen.Module):
    features: int = 2
    @flax.linen.compact
    def __call__(self, h, *, keys=None, train=False): return aejax.Code(z=flax.linen.Dense(self.features)(h))
def term(c): pathlib.Path({touched!r}).touch()
"""


class Touch:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    train(folder, mlp(objective__weights={"l1": 1e-3}))
    return folder


@pytest.fixture
def copy(workdir, tmp_path):
    return Path(shutil.copytree(workdir, tmp_path / "copy"))


def with_config(folder, change):
    """Changes the config of config.json and of all checkpoints, as one who wants to do harm could."""
    for step in checkpoint.list_steps(folder):
        file = folder / f"checkpoints/{step}/_CHECKPOINT_METADATA"
        metadata = json.loads(file.read_text())
        change(metadata["custom_metadata"]["config"])
        custom = metadata["custom_metadata"]
        custom["crc"] = checkpoint._compute_crc({key: custom[key] for key in ("config", "spec", "data")})
        file.write_text(json.dumps(metadata))
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


NAMED = {
    "encoder": lambda c: c["encoder"].update(name="poison:Bottleneck"),
    "bottleneck": lambda c: c["bottleneck"].update(name="poison:Bottleneck"),
    "likelihood": lambda c: c["likelihood"].update(name="poison:Bottleneck"),
    "adversary": lambda c: c["adversary"].update(name="poison:Bottleneck"),
    "schedule": lambda c: c["objective"]["schedules"].update(l1={"name": "poison:term"}),
    "function": lambda c: c["objective"]["options"].update(l1={"function": "poison:term"}),
    "weight": lambda c: c["objective"]["weights"].update({"poison:term": 1.0}),
    "below": lambda c: c["bottleneck"].update(name="poison.below:Bottleneck"),
    "tracker": lambda c: c.update(tracking=["wandb", "poison:Tracker"]),
    "trackers as one": lambda c: c.update(tracking="wandb, poison:Tracker"),
    "in a list": lambda c: c["encoder"].update(features=[5, ["poison:Bottleneck"]]),
    "imported already": lambda c: c["objective"]["options"].update(l1={"function": "os:system"}),
}


@pytest.mark.parametrize("change", mostly_slow(NAMED.values()), ids=NAMED)
def test_a_config_that_names_a_module_does_not_import_it(copy, change, monkeypatch, tmp_path):
    """Not even one that lies in the workdir, in the current folder and on the path of modules."""
    (copy / "poison.py").write_text(MINE.format(touched=str(tmp_path / "touched")))
    with_config(copy, change)
    monkeypatch.chdir(copy)
    monkeypatch.syspath_prepend(copy)
    with pytest.raises(
        aejax.InputError, match=r"names '(poison|poison\.below|os):\w+', code that is not aejax's"
    ) as error:
        aejax.load_run(copy)
    assert "\n" not in str(error.value)
    with pytest.raises(aejax.InputError, match="not aejax's"):
        aejax.load_run(copy, trust=["pois", "poison.b", "json"])
    assert not (tmp_path / "touched").exists()
    assert "poison" not in sys.modules


def test_the_config_of_a_loaded_run_tracks_by_no_code_that_is_not_trusted(copy):
    """It may be trained anew: experiments.search prints a command that does."""
    with_config(copy, lambda c: c.update(tracking=["wandb,unseen:Tracker"]))
    assert aejax.load_run(copy, trust="unseen").config.tracking == ["wandb,unseen:Tracker"]
    assert "unseen" not in sys.modules


@pytest.mark.parametrize("config", [[], None, {"a.b": 1}, {"encoder": {"name": ".os:x"}}, {"encoder": {"name": ":x"}}])
def test_what_is_no_config_is_one_line(copy, config):
    def change(old):
        old.clear() if not isinstance(config, dict) else None
        old.update(config or {})

    with_config(copy, change)
    with pytest.raises(aejax.AejaxError) as error:
        aejax.load_run(copy).encode(vectors())
    assert "\n" not in str(error.value)


def test_what_is_trusted_runs(copy, monkeypatch, tmp_path):
    (copy / "poison.py").write_text(MINE.format(touched=str(tmp_path / "touched")))
    with_config(copy, NAMED["bottleneck"])
    monkeypatch.syspath_prepend(copy)
    try:
        run = aejax.load_run(copy, trust=["poison"])
        assert type(run.model.bottleneck).__module__ == "poison"
    finally:
        sys.modules.pop("poison", None)
    assert (tmp_path / "touched").exists()


@pytest.mark.slow
@pytest.mark.parametrize("module", ["evaluate", "encode", "sample", "export"])
def test_commands_refuse_and_say_what_to_say(copy, module, tmp_path):
    (copy / "poison.py").write_text(MINE.format(touched=str(tmp_path / "touched")))
    with_config(copy, NAMED["bottleneck"])
    out = {"encode": "--out=x.npz", "sample": "--out=x.npz", "export": "--out=x", "evaluate": "--groups=codes"}[module]
    code, _, errors = commands.run(module, f"--workdir={copy}", out, cwd=copy)
    assert code == 1
    (line,) = errors.splitlines()
    assert line.startswith(f"error: {copy} names 'poison:Bottleneck', code that is not aejax's")
    assert line.endswith("--trust=poison to a command")
    assert not (tmp_path / "touched").exists()
    if module == "export":
        code, _, errors = commands.run(
            module, f"--workdir={copy}", f"--out={tmp_path / 'x'}", "--trust=poison", cwd=copy
        )
        assert (tmp_path / "touched").exists(), errors


@pytest.mark.slow
def test_pickles_in_a_checkpoint_are_not_opened(copy, workdir, tmp_path):
    poison = pickle.dumps(Touch(tmp_path / "touched"))
    for file in [p for p in (copy / "checkpoints/8").rglob("*") if p.is_file()]:
        file.write_bytes(poison)
    (copy / "checkpoints/8/state/state.pkl").write_bytes(poison)
    with pytest.warns(UserWarning, match="checkpoints/8 cannot be read"):
        assert aejax.load_run(copy).step == 4
    for file in [p for p in copy.rglob("*") if p.is_file()]:
        file.write_bytes(poison)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for use in (lambda: aejax.load_run(copy), lambda: train(copy)):
            with pytest.raises(aejax.AejaxError) as error:
                use()
            assert "\n" not in str(error.value)
    assert not (tmp_path / "touched").exists()
    pickle.loads(poison)  # it would have
    assert (tmp_path / "touched").exists()


@pytest.mark.slow
def test_nothing_is_unpickled_while_a_run_is_trained_loaded_and_used(workdir, tmp_path, monkeypatch):
    """In a process of its own, in which unpickling ends the process before any import."""
    code = f"""
import pickle, _pickle
def refuse(*a, **k): raise SystemExit("unpickled")
import aejax, aejax.evaluation, aejax.inference.encode_split
from conftest import mlp, vectors  # imports torch where it is installed, which defines kinds of Unpickler
for module in (pickle, _pickle):
    for name in ("load", "loads", "Unpickler"): setattr(module, name, refuse)
pickle._Unpickler = refuse
run = aejax.load_run({str(workdir)!r})
run.decode(run.encode(run.inputs)); run.generate(3)
run.export({str(tmp_path / "programs")!r})
aejax.fit(mlp(), vectors(), {str(tmp_path / "new")!r}, quiet=True)
try: pickle.loads(b"")
except SystemExit: print("kept")
"""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "kept\n"), done.stderr


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_arrays_of_objects_are_refused_unopened(suffix, tmp_path):
    objects = np.array([[Touch(tmp_path / "touched")] * 6] * 20, dtype=object)
    file = tmp_path / f"data{suffix}"
    np.save(file, objects) if suffix == ".npy" else np.savez(file, train=objects)
    with pytest.raises(aejax.InputError) as error:
        data.load(mlp(data__name=str(file)).data)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "touched").exists()


@pytest.mark.slow
def test_huge_arrays_in_a_checkpoint_are_one_line(tmp_path):
    """Of 4 TB, all zeros, none of which is written: tensorstore would fill them in."""
    import tensorstore

    train(tmp_path)
    store = {"driver": "ocdbt", "base": f"file://{tmp_path}/checkpoints/8/samples", "path": "latents/"}
    spec = {"driver": "zarr", "kvstore": store, "metadata": {"shape": [10**6, 10**6], "dtype": "<f4", "chunks": [8, 2]}}
    tensorstore.open(spec, create=True, delete_existing=True).result()
    with pytest.warns(UserWarning, match=r"checkpoints/8 cannot be read \(StorageError: it claims 4,000,000,\d+,\d+"):
        assert aejax.load_run(tmp_path).step == 4


@pytest.mark.slow
def test_no_source_of_ours_names_what_runs_data():
    """pickle and its kin, eval, exec; NumPy's own loader without `allow_pickle=True`."""
    modules = {"pickle", "marshal", "shelve", "dill", "joblib", "yaml", "cloudpickle", "runpy", "code"}
    allowed = {
        "aejax/config_files.py": {"runpy"},  # the file that the user's own --config names
        "aejax/perceptual/weights.py": {"pickle"},  # as the base of a reader that finds no class, below
    }
    for file in [*ROOT.glob("aejax/**/*.py"), *ROOT.glob("configs/**/*.py")]:
        nodes = list(ast.walk(ast.parse(file.read_text())))
        of_pickle = [n for n in nodes if isinstance(n, ast.Attribute) and getattr(n.value, "id", "") == "pickle"]
        readers = [n for n in nodes if isinstance(n, ast.ClassDef) and {*n.bases} & {*of_pickle}]
        assert [n.attr for n in of_pickle] == ["Unpickler"] * len(readers), file
        for reader in readers:
            assert "find_class" in {n.name for n in reader.body if isinstance(n, ast.FunctionDef)}, file
        for node in nodes:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found = {name.partition(".")[0] for name in names} & modules
            assert found <= allowed.get(str(file.relative_to(ROOT)), set()), file
            if isinstance(node, ast.Call):
                assert getattr(node.func, "id", "") not in ("eval", "exec", "compile", "__import__"), file
                for keyword in node.keywords:
                    assert keyword.arg != "allow_pickle" or keyword.value.value is False, file


def test_names_of_steps_are_numbers_and_nothing_else(copy):
    for name in ("..", "9.tmp", "-9", "9 ", "²", "٣"):
        (copy / "checkpoints" / name).mkdir(parents=True, exist_ok=True)
    assert checkpoint.list_steps(copy) == [4, 8]
    with pytest.raises(aejax.InputError, match="must be a whole number"):
        aejax.load_run(copy, "../8")
