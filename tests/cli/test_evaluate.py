"""The command of an evaluation: which workdirs it measures, and the table that it prints of them."""

import sys

import jax
import pytest
from conftest import command


@pytest.fixture
def evaluate(monkeypatch, tmp_path):
    """Runs the command as `python -m` would, on figures that stand for measured ones; its exit status."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        module = command("evaluate")
        monkeypatch.setattr(module.command, "load", lambda workdir, step, data: f"{workdir} at {step}")
        monkeypatch.setattr(module, "measure", lambda workdir, run, groups, features: {"codes": figures(workdir, run)})
        monkeypatch.setattr(sys, "argv", ["evaluate", *arguments, "--compilation_cache="])
        try:
            module.main()
        except SystemExit as error:
            return error.code
        return 0

    def figures(workdir, run):
        assert run == f"{workdir} at newest"
        return {"used": {"value": len(workdir) / 3}, "mig": {"skipped": "no factors"}, "l0": {"skipped": "no factors"}}

    return run


def test_several_workdirs_are_columns_of_a_table(evaluate, capsys):
    assert evaluate("--workdir=one,longer_than_ten") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[:2]] == [["one", "longer_than_ten"], ["codes/used", "1", "5"]]
    assert lines[2:] == ["skipped codes/mig, codes/l0: no factors"]
    assert len(lines[0]) == len(lines[1])


def test_a_comma_is_no_separator_in_the_name_of_a_folder(evaluate, tmp_path, capsys):
    (tmp_path / "a,b").mkdir()
    assert evaluate("--workdir=a,b") == 0
    assert capsys.readouterr().out.split()[0] == "a,b"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workdir=a,b", "--out=c"], "--out is for one workdir"),
        (["--workdir=a,"], "--workdir is empty"),
        (["--workdir=a", "--groups="], "--groups is empty"),
        (["--workdir=a", "--anneal=0"], "anneal, the number of steps, must be a whole number above 0, got 0"),
        (["--workdir=a", "--chains=0"], "chains must be a whole number above 0, got 0"),
    ],
)
def test_a_slip_is_one_line(evaluate, arguments, message):
    assert evaluate(*arguments).startswith(f"error: {message}")


def test_the_suite_shares_its_programs_again_after_a_command(request):
    assert jax.config.jax_compilation_cache_dir == str(request.config.cache.mkdir("programs"))
