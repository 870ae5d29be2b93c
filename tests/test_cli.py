"""The console script: its help, its configs by name, and what `import aejax` leaves alone."""

import ast
import os
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest

import aejax
from aejax import config as config_lib
from aejax import config_files, presets
from aejax.cli.__main__ import COMMANDS, main
from aejax.config_files import find_config
from configs import sae

ROOT = Path(__file__).parents[1]
EXAMPLE = textwrap.dedent(presets.__doc__.partition("\n\n")[2])  # a config file of one's own


def python(code, *arguments, cwd=None):
    """Returns what Python prints for `code` in a process of its own, with `arguments` after the program's name."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GLIBC_TUNABLES": ""}
    command = [sys.executable, "-c", f"import sys; sys.argv[0] = 'aejax'; {code}", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=cwd, env=environment).stdout


@pytest.mark.parametrize("asked", [[], ["--help"], ["help"]])
def test_help_lists_the_commands_and_imports_nothing_slow(asked):
    loaded = "print({name.partition('.')[0] for name in sys.modules})"
    printed = python(f"from aejax.cli.__main__ import main; main(); {loaded}", *asked)
    assert [line.split()[0] for line in printed.splitlines() if line.startswith("  ")][1:] == list(COMMANDS)
    assert "'aejax'" in printed
    assert not [name for name in ("jax", "numpy", "absl", "ml_collections") if f"'{name}'" in printed]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_imports_neither_jax_nor_matplotlib(command):
    loaded = "import atexit; atexit.register(lambda: print({name for name in sys.modules}))"
    code = f"{loaded}; from aejax.cli.__main__ import main; main()"
    printed = python(code, command, "--help")
    assert f"aejax {command}" in printed
    assert not [name for name in ("jax", "flax", "matplotlib", "scipy", "sklearn", "PIL") if f"'{name}'" in printed]


def test_help_names_the_groups_of_metrics_and_the_samplers():
    from aejax import evaluation, samplers

    for command, flag, names in (
        ("evaluate", "--groups=", evaluation.GROUPS),
        ("sample", "--sampler=", samplers.SAMPLERS),
    ):
        text = ast.get_docstring(ast.parse((ROOT / f"aejax/cli/{command}.py").read_text())).partition(flag)[2]
        assert all(name in text for name in names)


def test_each_command_is_there_by_both_of_its_names():
    for name in COMMANDS:
        assert (ROOT / f"aejax/cli/{name}.py").exists()
        assert f'main("{name}")' in (ROOT / f"experiments/{name}.py").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["scripts"] == {"aejax": "aejax.cli.__main__:main"}


def test_the_library_imports_no_command():
    for file in (ROOT / "aejax").rglob("*.py"):
        assert "aejax/cli" in file.as_posix() or "aejax.cli" not in file.read_text(), file


def test_an_unknown_command_is_one_line(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["aejax", "trian"])
    with pytest.raises(SystemExit, match=r"^error: command 'trian' is unknown; did you mean 'train'\?"):
        main()


def test_a_config_is_found_by_name_or_path(tmp_path, monkeypatch):
    assert find_config("vae:tiny") == ROOT / "configs/vae.py"
    assert find_config("transformer", "priors") == ROOT / "configs/priors/transformer.py"
    assert callable(config_files.find_function("vae", "search"))
    assert config_files.find_function("basic", "search") is None
    monkeypatch.chdir(tmp_path)
    assert find_config("vae") == ROOT / "configs/vae.py"
    (tmp_path / "vae").write_text("")
    assert find_config("vae") == Path("vae")  # as before there were names
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.py").write_text("")
    assert find_config("~/mine.py:tiny") == tmp_path / "mine.py"


def test_a_config_is_loaded_by_name_or_path(tmp_path):
    config = aejax.load_config("sae:batch_topk,tiny")
    assert config == sae.get_config("batch_topk,tiny")
    assert config.is_locked
    assert aejax.load_config("sae") == sae.get_config()
    (tmp_path / "mine.py").write_text(
        "from aejax.config import default\ndef get_config(arg=''):\n    return default()\n"
    )
    assert aejax.load_config(f"{tmp_path}/mine.py:any") == config_lib.default()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"mine\.py has no function get_config; define get_config\(arg\)"),
        ("def get_config(arg=''): return 3", r"get_config of .*mine\.py returned int; return a config"),
    ],
)
def test_a_file_that_is_no_config_is_one_line(text, message, tmp_path):
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(aejax.InputError, match=message):
        aejax.load_config(str(tmp_path / "mine.py"))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("vea:tiny", r"^no config is called 'vea'; did you mean 'vae'\?$"),
        ("zzzzzz", r"^no config is called 'zzzzzz'; choose one of: aae, .*, wae$"),
        ("common", r"^no config is called 'common'"),
        ("there/mine.py", r"^there is no such file; check its path$"),
        ("there/vae.py", r"^there is no such file; write vae for the config that ships with aejax$"),
    ],
)
def test_a_config_that_is_not_there_is_one_line(value, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(aejax.InputError, match=message):
        find_config(value)


def test_the_configs_that_are_installed_are_found(tmp_path, monkeypatch):
    """In a wheel the folder `configs` of the repository lies in the package."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"] == {"configs": "aejax/configs"}
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/vae.py").write_text("")
    monkeypatch.setattr("aejax.config_files.__file__", str(tmp_path / "config_files.py"))
    assert find_config("vae") == tmp_path / "configs/vae.py"


def test_the_example_of_presets_is_a_config():
    names = {}
    exec(EXAMPLE, names)
    assert names["get_config"]("tiny").is_locked
    assert names["get_config"]().data.name == "mnist"
    from configs import common

    assert common.mlp is presets.mlp  # the former name


@pytest.mark.slow
def test_import_aejax_leaves_alone_what_is_not_its_own():
    """Beside what the libraries that it imports do themselves."""
    code = """
import logging, os, signal, warnings
import jax, flax.linen, optax, orbax.checkpoint, ml_collections, scipy.sparse

def state():
    loggers = {name: logging.getLogger(name).level for name in ("", "absl", "asyncio", "jax", "orbax", "optuna")}
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)]
    hooks = [sys.excepthook, sys.unraisablehook, warnings.showwarning, *sys.path, *sys.path_hooks]
    return [loggers, handlers, hooks, dict(os.environ), list(warnings.filters), "torch" in sys.modules]

before = state()
import aejax
for name in aejax.__all__:
    getattr(aejax, name)
print(state() == before)
"""
    assert python(f"exec({code!r})") == "True\n"


@pytest.mark.slow
def test_the_wheel_trains_from_any_folder(tmp_path):
    wheel = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path / "wheel"), str(ROOT)]
    subprocess.run(wheel, check=True)
    (built,) = (tmp_path / "wheel").iterdir()
    into = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(tmp_path / "site"), str(built)]
    subprocess.run(into, check=True)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/mine.py").write_text(EXAMPLE)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    script = [sys.executable, str(tmp_path / "site/bin/aejax"), "train"]
    for config in ("vae", "mine.py"):
        arguments = [f"--config={config}:tiny", f"--workdir={config}.run"]
        subprocess.run([*script, *arguments], check=True, cwd=tmp_path / "empty", env=environment)
        assert aejax.load_run(tmp_path / f"empty/{config}.run").step == 4
