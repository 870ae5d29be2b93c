"""Any content of the text files of a run or a sweep, read as the library and the commands read them."""

import json
import shutil

import pytest
from conftest import mlp, one_device, vectors
from door import JSON, NUMBERS, WORDS, cases, damaged, many_cases, try_all
from hypothesis import strategies as st

import aejax
from aejax import ablation
from aejax.ablation import plan, table
from aejax.workdir import checkpoint, lifecycle, metrics_log

CONFIG = mlp(steps=2, log_every=1, checkpoint_every=1, batch_size=4, samples=2)
EVALUATION = {"reconstruction": {"psnr": {"value": 20.0, "unit": "dB"}}, "codes": {"used": {"skipped": "no codes"}}}
DEEP = b"[" * 100_000


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """A sweep of two runs, both finished and evaluated."""
    root = tmp_path_factory.mktemp("sweep")
    runs = plan.plan(CONFIG, [{"optim.lr": 1e-3}, {"optim.lr": 1e-2}])
    (root / "sweep.json").write_text(plan.to_json(CONFIG, runs))
    first, second = (root / each.name for each in runs)
    aejax.fit(CONFIG, vectors(20), first, devices=one_device(), quiet=True)
    (first / "evaluation/2").mkdir(parents=True)
    (first / "evaluation/2/metrics.json").write_text(json.dumps(EVALUATION))
    shutil.copytree(first, second)
    (second / "config.json").write_text(aejax.config.to_json(runs[1].config))
    return root


@st.composite
def changed(draw, value):
    """A value in JSON with another in the place of one of its parts, or one part more."""
    if not isinstance(value, dict | list) or not value or not draw(st.integers(0, 3)):
        return draw(JSON)
    if isinstance(value, list):
        at = draw(st.integers(0, len(value) - 1))
        return [*value[:at], draw(changed(value[at])), *value[at + 1 :]]
    key = draw(st.sampled_from(sorted(value)))
    return {**value, draw(st.one_of(*[st.just(key)] * 9, WORDS)): draw(changed(value[key]))}


def contents(file):
    """What may stand in a file: anything, its own damaged, JSON of another form or with other values."""
    before = file.read_bytes() if file.exists() else b"failed: it is full\n"
    lines = before.splitlines() if file.suffix == ".jsonl" else [before]
    records = [json.loads(line) for line in lines] if b"{" in before else [{}]
    others = st.sampled_from(range(len(records))).flatmap(
        lambda i: changed(records[i]).map(lambda new: [*records[:i], new, *records[i + 1 :]])
    )
    written = st.one_of(others, others, st.lists(JSON, max_size=2)).map(
        lambda records: "\n".join(map(json.dumps, records)).encode()
    )
    return st.one_of(
        written, written, damaged([before, DEEP]), st.binary(), WORDS.map(lambda w: w.encode(errors="replace"))
    )


def compare(root):
    """What experiments.compare does, but for pictures."""
    for at in ("last", "best"):
        found = ablation.collect([root], at)
        metrics, baseline = table.choose_metrics(found), table.choose_baseline(found)
        rows = ablation.tabulate(found, metrics, baseline)
        said = table.write_remarks(found, metrics, baseline, at)
        for text in (ablation.as_text(found, rows), ablation.as_latex(found, rows), *said, *found.notes):
            text.encode()
        for text in (ablation.as_csv(found, rows), ablation.runs_as_csv(found)):
            text.encode()


READERS = {
    "compare": lambda root, run: compare(root),
    "is_finished": lambda root, run: lifecycle.is_finished(CONFIG, run),
    "find_run": lambda root, run: lifecycle.find_run(run, CONFIG),
    "metrics": lambda root, run: [record["step"] + 1 for record in metrics_log.read(run)],
    "best": lambda root, run: checkpoint.find_best(run),
    "load_run": lambda root, run: aejax.load_run(run, "best").encode(vectors(2)),
}
READ = {
    "sweep.json": ["compare"],
    "lr=0.001/config.json": ["compare", "is_finished", "find_run"],
    "lr=0.001/metrics.jsonl": ["compare", "is_finished", "metrics", "best"],
    "lr=0.001/ended.txt": ["compare"],
    "lr=0.001/evaluation/2/metrics.json": ["compare"],
}


@cases
@pytest.mark.parametrize("name", READ)
def test_files_of_runs(sweep, name, cases):
    file = sweep / name
    before = file.read_bytes() if file.exists() else None

    def door(content, reader):
        file.write_bytes(content)
        READERS[reader](sweep, sweep / "lr=0.001")

    try:
        try_all(max(cases // 2, 25), door, content=contents(file), reader=st.sampled_from(READ[name]))
    finally:
        file.write_bytes(before) if before is not None else file.unlink(missing_ok=True)


@many_cases
def test_what_a_checkpoint_says_of_itself(sweep, cases):
    """Config, spec and sums: fewer of them, each is an error or the run as it was saved."""
    file = sweep / "lr=0.001/checkpoints/2/_CHECKPOINT_METADATA"
    before = file.read_bytes()

    def door(content):
        file.write_bytes(content)
        aejax.load_run(sweep / "lr=0.001", 2).encode(vectors(2))

    try:
        try_all(max(cases // 20, 10), door, content=contents(file))
    finally:
        file.write_bytes(before)


@cases
def test_a_checkpoint_whose_config_or_spec_another_wrote(sweep, cases, monkeypatch):
    """With checksums that fit."""
    saved = checkpoint.find(sweep / "lr=0.001", 2)
    loaded = 0

    def door(config, spec):
        nonlocal loaded
        other = saved._replace(metadata={"config": config, "spec": spec})
        monkeypatch.setattr(checkpoint, "load_newest", lambda _: other)
        aejax.load_run(sweep / "lr=0.001")
        loaded += 1

    sections = {name: changed(json.loads(json.dumps(saved.metadata[name]))) for name in ("config", "spec")}
    try_all(cases, door, config=sections["config"], spec=st.one_of(st.just(saved.metadata["spec"]), sections["spec"]))
    assert loaded > cases // 100


@many_cases
def test_names_of_workdirs_and_steps(sweep, cases):
    def door(name, step):
        aejax.load_run(sweep / name if isinstance(name, str) else name, step)

    steps = st.one_of(st.just("newest"), st.just("best"), NUMBERS, WORDS, st.none())
    names = st.one_of(st.just("lr=0.001"), WORDS, WORDS, JSON)
    try_all(cases, door, name=names, step=steps)
