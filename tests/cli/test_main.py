import os
import subprocess
import sys
import warnings

import commands
import jax
import numpy as np
import pytest
from absl import flags
from conftest import command as define_flags_anew
from jax.experimental.compilation_cache import compilation_cache

import aejax
from aejax.cli import command


@pytest.fixture(autouse=True)
def _as_before():
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_programs_are_kept_where_told_or_in_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    jax.config.update("jax_compilation_cache_dir", None)  # no JAX_COMPILATION_CACHE_DIR
    command._keep_programs(None)
    folder = jax.config.jax_compilation_cache_dir
    assert folder.startswith(str(tmp_path / "aejax"))
    command._keep_programs("")
    assert jax.config.jax_compilation_cache_dir is None
    command._keep_programs(str(tmp_path / "mine"))
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "mine")
    command._keep_programs(None)
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "mine")  # as JAX was told


def test_other_processors_have_their_own_programs(monkeypatch):
    folders = set()
    for features in ("flags : avx512f", "flags : avx2", "nothing of the kind"):
        monkeypatch.setattr(command.Path, "read_text", lambda self, features=features: f"model name: x\n{features}\n")
        folders.add(command._programs_of_user())
    assert len(folders) == 3


def test_a_folder_that_cannot_be_used_costs_a_warning_not_the_run(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match=r"are not cached: .* choose a folder by --compilation_cache="):
        command._keep_programs(str(tmp_path / "file/inside"))
    assert jax.config.jax_compilation_cache_dir is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "status", "told"),
    [
        ("print('x' * 100_000)", 141, ""),
        ("print('x')", 141, ""),
        ("print('x'); raise aejax.InputError('no')", 1, "error: no\n"),
    ],
)
def test_a_reader_who_leaves_ends_the_command_without_a_traceback(what, status, told):
    code = f"""import aejax, sys; from aejax.cli.command import run
sys.argv = ["command", "--compilation_cache="]
def command():
    {what}
run(command)"""
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], env=buffered, **pipes) as process:
        process.stdout.close()
        assert process.stderr.read() == told
    assert process.returncode == status


@pytest.mark.slow
def test_a_command_fills_the_cache_and_the_next_compiles_nothing(tmp_path):
    def programs(name):
        arguments = [
            "--config=configs/basic.py:tiny",
            f"--workdir={tmp_path / name}",
            f"--compilation_cache={tmp_path / 'c'}",
        ]
        assert commands.run("train", *arguments)[0] == 0
        return {file.name for file in (tmp_path / "c").glob("*-cache")}

    first = programs("a")
    assert len(first) > 3
    assert programs("b") == first
    assert aejax.load_run(tmp_path / "b").step == aejax.load_run(tmp_path / "a").step


def test_a_kept_program_that_was_cut_off_is_said_once_and_replaced(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(warnings, "showwarning", command._show)
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    compilation_cache.reset_cache()
    try:
        for start in range(3):
            jax.clear_caches()
            with warnings.catch_warnings():
                warnings.simplefilter("always")
                jax.jit(lambda x: 2 * x)(np.float32(1))
            if start == 0:
                (file,) = tmp_path.glob("jit__lambda*-cache")
                file.write_bytes(file.read_bytes()[:-100])
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
        compilation_cache.reset_cache()
    said = f"warning: a cached program in {tmp_path} cannot be read and is compiled again\n"
    assert capsys.readouterr().err == said


def test_a_command_asks_for_large_pages_once_and_leaves_alone_what_it_finds():
    show = "import os; print(os.environ.get('GLIBC_TUNABLES'))"  # stands for the command

    def tunables(code, **variables):
        environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"} | variables
        arguments = [sys.executable, "-c", code]
        return subprocess.run(arguments, check=True, capture_output=True, text=True, env=environment).stdout.strip()

    expected = "glibc.malloc.hugetlb=1" if sys.platform == "linux" else "None"
    anew = f"import sys; sys.orig_argv = [sys.executable, '-c', {show!r}]"
    ask = "from aejax.cli.__main__ import use_large_pages; use_large_pages()"
    assert tunables(f"{anew}; {ask}") == expected
    assert tunables(f"{anew}; {ask}; {show}", GLIBC_TUNABLES="") == ""
    assert tunables(f"{anew}; sys.argv = ['-m']; import experiments") == expected
    assert tunables(f"import aejax.cli.__main__, experiments; {show}") == "None"  # as a library


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("Could not\nparse"), "does not fit: Could not parse"),
        (RecursionError(), "does not fit: RecursionError"),
        (KeyError("kl"), "does not fit: there is no kl"),
        (TypeError("no float. Other fields present: " + "x" * 9999), "does not fit: no float."),
        (flags.Error("flag --config.steps=" + "9" * 9999), "flag --config.steps=999"),
    ],
)
def test_whatever_a_flag_raises_is_one_short_line(monkeypatch, error, told):
    def read(argv):
        raise error

    monkeypatch.setattr(command.flags, "FLAGS", read)
    with pytest.raises(aejax.InputError, match=told) as raised:
        command._read_flags(["command"])
    assert len(str(raised.value)) < 600
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["encode", "export", "sample"])
def test_a_command_says_which_flag_it_lacks(name):
    define_flags_anew(name)
    for given, lacking in (("workdir", "out"), ("out", "workdir")):
        with pytest.raises(flags.IllegalFlagValueError, match=f"--{lacking} must have a value"):
            flags.FLAGS([name, f"--{given}=a"])
        flags.FLAGS[given].unparse()


@pytest.mark.slow
def test_help_is_no_error_and_an_override_that_does_not_fit_prints_one_line():
    given = ("--config=configs/vae.py:tiny", "--workdir=unused")
    status, output, _ = commands.run("train", *given, "--help")
    assert status == 0
    assert "--workdir" in output
    for override, told in (("stepz=3", 'Key "stepz" does not exist'), ("objective.schedules.kl.steps=3", "no 'kl'")):
        status, _, errors = commands.run("train", *given, f"--config.{override}")
        assert (status, len(errors.splitlines())) == (1, 1)
        assert told in errors
        assert len(errors) < 200
    status, _, errors = commands.run("train", "--config=configs/vae.py:foo", "--workdir=unused")
    assert (status, errors) == (
        1,
        "error: config argument 'foo' is unknown (commas separate several); choose among: tiny, sigma\n",
    )
