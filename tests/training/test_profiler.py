"""--profile: what is traced, that it changes nothing, and which steps it leaves out."""

import gzip
import json

import jax
import pytest
from conftest import assert_trees_equal, command, mlp, mostly_slow, one_device, vectors

import aejax
from aejax import data
from aejax.workdir import checkpoint


def train(workdir, profiled=None, stop=lambda: False, **changes):
    """Steps are dispatched two at a time."""
    config = mlp(**changes)
    splits = data.split({"train": data.from_array(vectors())}, config.data)
    return aejax.train(config, workdir, data=splits, devices=one_device(), stop=stop, quiet=True, profiled=profiled)


def dispatches(workdir):
    """At which steps those began that each trace holds, as XProf and TensorBoard find it."""
    found = []
    for file in sorted(workdir.glob("plugins/profile/*/*.trace.json.gz")):
        events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
        found.append([int(e["args"]["step_num"]) for e in events if e.get("name") == "train"])
        assert len(list(file.parent.glob("*.xplane.pb"))) == 1
        assert any("hlo_op" in e.get("args", {}) for e in events)  # what the device did
    return found


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("plain")
    train(workdir)
    return checkpoint.load_newest(workdir)


@pytest.mark.parametrize(("profiled", "traced"), mostly_slow([(range(2, 4), [2]), (range(3, 5), [2, 4])]))
def test_the_trace_holds_the_dispatches_of_the_steps_and_changes_no_bit(tmp_path, capsys, plain, profiled, traced):
    train(tmp_path, profiled)
    assert dispatches(tmp_path) == [traced]
    (folder,) = (tmp_path / "plugins/profile").iterdir()
    said = capsys.readouterr().err
    assert said.startswith(f"profile of steps {traced[0] + 1} to {traced[-1] + 2}: {folder}; to see it: ")
    assert said.count("\n") == 1
    newest = checkpoint.load_newest(tmp_path)
    assert_trees_equal(newest.state, plain.state)
    assert_trees_equal(newest.samples, plain.samples)


@pytest.mark.slow
def test_a_resumed_run_counts_from_where_it_goes_on_and_a_stopped_one_writes_what_it_has(tmp_path, capsys):
    train(tmp_path, stop=lambda: True)
    asked = iter([False])
    train(tmp_path, range(4, 8), stop=lambda: next(asked, True))
    assert dispatches(tmp_path) == [[4]]
    assert "profile of steps 5 to 6: " in capsys.readouterr().err
    jax.profiler.start_trace(str(tmp_path / "another"))  # would raise, were one still running
    jax.profiler.stop_trace()


@pytest.mark.slow
@pytest.mark.parametrize("profiled", [range(2), range(8, 9), range(100, 110)])
def test_steps_that_the_run_does_not_come_by_are_warned_of_and_it_goes_on(tmp_path, profiled):
    train(tmp_path, stop=lambda: True)
    asked = f"steps {profiled.start}:{profiled.stop} are not profiled: the run goes from step 2 to step 8 now"
    with pytest.warns(UserWarning, match=asked):
        assert train(tmp_path, profiled).step == 8
    assert dispatches(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize(("profiled", "traced"), [(range(4), [2]), (range(6, 9), [6])])
def test_of_some_steps_that_lie_ahead_these_are_traced(tmp_path, profiled, traced):
    train(tmp_path, stop=lambda: True)
    train(tmp_path, profiled)
    assert dispatches(tmp_path) == [traced]


@pytest.mark.parametrize("profiled", [range(4, 4), range(6, 4)])
def test_a_range_without_a_step_is_refused_early(tmp_path, profiled):
    with pytest.raises(aejax.InputError, match=r"cannot be profiled: the last one must be later than the first"):
        train(tmp_path, profiled)
    assert checkpoint.list_steps(tmp_path) == []


@pytest.mark.slow
def test_a_finished_run_is_not_profiled(tmp_path):
    train(tmp_path)
    with pytest.warns(UserWarning, match="the run goes from step 8 to step 8 now"):
        assert train(tmp_path, range(8)).step == 8


def test_the_flag_is_two_steps():
    steps = command("train").steps
    assert steps("") is None
    assert steps("100:110") == range(100, 110)
    for wrong in ("10", ":", "10:", "-1:3", "a:b", "1:2:3"):
        with pytest.raises(aejax.InputError, match=f"--profile={wrong} must be two steps"):
            steps(wrong)
