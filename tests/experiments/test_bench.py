"""The benchmark: its recorded figures agree with each other, with README and with what the series promises."""

import json
import re
from pathlib import Path

import pytest

import helpers  # noqa: F401
from helpers.assets import FileError

REPOSITORY = Path(__file__).resolve().parent.parent
RECORDED = REPOSITORY / "notebooks" / "recorded"


@pytest.fixture(scope="module")
def bench(recorded_program):
    return recorded_program("bench")


@pytest.fixture(scope="module")
def recorded():
    return json.loads((RECORDED / "bench.json").read_text(encoding="utf-8"))


def test_without_the_full_mnist_the_embedded_digits_stand_in(bench, monkeypatch):
    def nowhere(*args, **kwargs):
        raise FileError("no copy")

    monkeypatch.setattr(bench, "mnist_full", nowhere)
    assert "5,000" in bench.digits("").train.source
    with pytest.raises(FileError):
        bench.digits("a_file_that_was_named.npz")


def test_times_to_the_articles_accuracy_follow_from_the_steps(recorded, bench):
    run = recorded["to_the_articles_accuracy"]
    assert (run["article_steps"], run["article_test_steps"]) == (9_380, 1_570)
    article = run["article_steps"] * run["article_step"] + run["article_test_steps"] * run["article_test_step"]
    assert run["article_seconds"] == pytest.approx(article, rel=0.01)
    assert run["seconds"] == sorted(run["seconds_of_each"])[len(run["seconds_of_each"]) // 2]
    assert run["ratio"] == pytest.approx(run["article_seconds"] / run["seconds"], rel=0.01)
    assert run["test_accuracy"] > run["target"] == bench.TARGET and run["test_digits"] == 10_000
    assert run["ratio"] >= 100 and run["seconds"] < 60


def test_operations_of_an_image_are_those_of_the_network(recorded):
    side, channels, total = 32, 3, 0
    for convolutions, width in ((2, 64), (2, 128), (3, 256)):
        for _ in range(convolutions):
            total += 2 * side * side * 9 * channels * width
            channels = width
        side //= 2
    run = recorded["extraction"]
    assert run["operations_per_image"] == total
    speed = run["images_per_second"] * total / 1e9 / run["gflops_of_matrix_product"]
    assert run["ratio"] == pytest.approx(speed, rel=0.1)  # a median of ratios, and a ratio of medians


def test_cached_features_save_time_and_change_nothing(recorded):
    run = recorded["cached_features"]
    assert run["ratio"] == pytest.approx(run["anew"] / run["cached"], rel=0.15)
    assert run["largest_difference"] < 1e-3


def test_memory_stays_flat(recorded):
    curve = recorded["memory"]
    assert [run["images"] for run in curve] == [1_000, 3_000, 10_000, 30_000, 60_000]
    assert all(run["peak_mb"] <= 2048 for run in curve)
    assert curve[-1]["extraction_mb"] - curve[-1]["mb_before"] < 300


def test_readme_quotes_the_recorded_figures(recorded):
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    (section,) = re.findall(r"## Speed and memory\n(.*?)\n## ", text, re.DOTALL)
    ours, memory = recorded["to_the_articles_accuracy"], recorded["memory"][-1]
    for figure in (
        f"{ours['seconds']:.0f} s",
        f"{ours['ratio']:.0f} times",
        f"{recorded['extraction']['ratio']:.2f}",
        f"{recorded['cached_features']['ratio']:.1f} times",
        f"{memory['peak_mb']:,} MB",
    ):
        assert figure in section, figure


def test_readme_shows_what_each_notebook_needed():
    run = json.loads((RECORDED / "make_run.json").read_text(encoding="utf-8"))
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert len(run["notebooks"]) == 4
    for name, needed in run["notebooks"].items():
        (row,) = re.findall(rf"^\| {name[:2]} \|.*\(notebooks/{name}\.ipynb\).*$", text, re.MULTILINE)
        assert row.endswith(f"| {needed['seconds'] / 60:.1f} | {needed['peak_mb']:,} |"), (name, needed, row)
        assert needed["peak_mb"] <= 2048
    assert sum(needed["seconds"] for needed in run["notebooks"].values()) <= 600
