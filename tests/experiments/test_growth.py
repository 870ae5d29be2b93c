"""The points of the growth benchmark: separate processes, files that are not read whole, a plot of what was found."""

import numpy as np
import pytest

from experiments.benchmark import growth
from experiments.benchmark.growth import Point


@pytest.mark.slow
def test_a_point_is_measured_in_a_process_of_its_own_that_does_not_read_the_whole_file():
    point = Point("mlp", batch=4, examples=20_000, width=1, devices=2, streamed=True, steps=2)
    found = growth.growth(2, {"examples": [point]})["examples"][0]
    assert found["devices"] == 2  # this process has four
    assert len(found["rates"]) == 2
    assert found["images_per_second"] == np.median(found["rates"]) > 0
    assert found["mapped_gib"] < 0.5 * 20_000 * 784 / 2**30
    assert 0.1 < found["peak_gib"] < 2


def test_turns_of_a_point_are_put_together(monkeypatch):
    """Of its turns the median of the rates, and the highest peak."""
    turns = iter(range(1, 4))
    measure = lambda point, file: {"images_per_second": (n := next(turns)) ** 2, "peak_gib": n + 0.5}  # noqa: E731
    monkeypatch.setattr(growth, "_in_a_process", measure)
    (found,) = growth.growth(3, {"devices": [Point("mlp", examples=2, devices=2)]})["devices"]
    assert found == {"images_per_second": 4, "rates": [1, 4, 9], "peak_gib": 3.5}


@pytest.mark.slow
def test_held_data_is_read_whole(tmp_path):
    growth._write_images(tmp_path / "x.npy", 8_000)
    point = Point("mlp", batch=4, examples=8_000, width=1, devices=4, steps=2)
    assert growth.measure(point, tmp_path / "x.npy")["mapped_gib"] == pytest.approx(8_000 * 784 / 2**30, rel=0.02)


def test_plot_shows_each_series_where_it_was_measured():
    def point(model, **fields):
        return {**vars(Point(model, width=1, devices=1)), "peak_gib": 1.5, "mapped_gib": 0.25, **fields}

    found = [point("mlp", batch=32, images_per_second=10.0), point("mlp", batch=128, images_per_second=20.0)]
    streamed = [point("conv", streamed=True, images_per_second=5.0)]
    grid = growth.plot({"batch": found, "examples": streamed, "width": found, "devices": found}).axes
    assert grid[0].lines[0].get_xydata().tolist() == [[32, 10], [128, 20]]
    assert grid[1].lines[0].get_xydata().tolist() == [[32, 1.25], [128, 1.25]]
    assert [text.get_text() for text in grid[2].get_legend().get_texts()] == ["conv, streamed"]
