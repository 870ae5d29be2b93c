"""The benchmark of decoding: contenders that do the same work, turns that are measured, goals that are kept."""

import itertools
import json
import subprocess
import sys
import time

import numpy as np
import pytest

from experiments.benchmark import decoders, decoding, goals
from experiments.benchmark.decoders import Turn


@pytest.fixture
def turn(tmp_path):
    decoding.write_pictures(tmp_path / "pictures", 150, 200, 5)
    return Turn(str(tmp_path / "pictures"), 24, 3)


def test_aejax_streams_the_pictures_that_its_peers_decode_mirrored_alike(turn):
    streamed = np.concatenate(list(itertools.islice(decoders._stream_aejax(turn), 3)))
    files = decoders._list(turn)
    # aejax mirrors the first, third, ... file, its peers every other picture: the same of an even number of files.
    mirrored = [streamed[i] if i % 5 % 2 else streamed[i][:, ::-1] for i in range(9)]
    for i, pixels in enumerate(mirrored):
        np.testing.assert_array_equal(pixels, decoders._load_draft(files[i % 5], 24))
        whole = decoders._load_whole(files[i % 5], 24)
        assert np.abs(pixels.astype(int) - whole).mean() < 4
        np.testing.assert_array_equal(decoders._load_mirrored(0, files[i % 5], 24, False), whole[:, ::-1])


def test_a_turn_counts_images_and_waiting_after_the_first_batches(turn, monkeypatch):
    def stream(turn):
        time.sleep(0.3)  # starting, which does not count
        while True:
            time.sleep(0.01)
            yield np.zeros(1)

    monkeypatch.setattr(decoders, "_busy_seconds", itertools.count().__next__)
    found = decoders.take_turn(stream(None), Turn("", 0, 5, step=0.02))
    assert 5 / 0.2 < found["per_second"] <= 5 / 0.03
    assert found["per_cpu_second"] == 10 * 5
    assert 0.05 < found["waits"] < 0.9


def test_the_processors_time_of_workers_counts():
    burn = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\ninput()"
    before = decoders._busy_seconds()
    with subprocess.Popen([sys.executable, "-c", burn], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        assert decoders._busy_seconds() - before > 0.25
        child.communicate(b"\n")


def test_a_command_replaces_its_own_goals_and_keeps_the_others(tmp_path):
    goals.write(tmp_path, "a", [goals.at_least("speed", 1.2, 1.3), goals.at_most("seconds", 1.2, 1.3)])
    goals.write(tmp_path, "b", [goals.at_most("seconds", 2, 1)])
    goals.write(tmp_path, "a", [goals.at_least("speed", 1.3, 1.3)])
    assert json.loads((tmp_path / "goals" / "speed.json").read_text()) == [
        {"figure": "speed", "value": 1.3, "goal": 1.3, "reached": True, "command": "a"},
        {"figure": "seconds", "value": 2, "goal": 1, "reached": False, "command": "b"},
    ]


def test_a_ratio_is_the_lower_of_the_clocks_and_the_processors():
    ratios = {"per_second": {"grain": 2.0, "pytorch": 1.2}, "per_cpu_second": {"grain": 1.5, "pytorch": 1.4}}
    found = decoding._set_goals("work", {"ratios": ratios, "waits": [0.5, 0.0, 0.01]})
    assert [(goal["value"], goal["reached"]) for goal in found] == [(1.5, True), (1.2, False), (0.01, True)]


@pytest.mark.slow
def test_contenders_take_turns_and_a_folder_is_opened_cold_and_warm():
    found = decoding.decoding(1, {"small": (40, 60, 4, 2)}, [16])
    (work,) = found["works"].values()
    assert work["ratios"]["per_second"]["aejax"] == 1
    assert len(work["images"]["per_cpu_second"]["grain"]) == 1
    found = decoding.streaming(1, count=40, size=24)
    assert found["ratios"]["per_second"]["aejax"] == 1
    if "pytorch" in found["ratios"]["per_second"]:
        (goal,) = found["goals"]
        assert goal["value"] == min(found["ratios"][key]["pytorch"] for key in ("per_second", "per_cpu_second"))
        assert goal["figure"].startswith("streaming a folder of 40 JPEGs (about 500x375) to 24x24 crops")
    found = decoding.folder(1, files=1_200)
    assert found["warm"] > 0
    assert [goal["goal"] for goal in found["goals"]] == [10, 2]
