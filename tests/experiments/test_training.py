"""Trainings of the recorded programs: a kill changes no number, and pictures, batches and precision are as said."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import helpers  # noqa: F401  (before Keras, which it quiets)

# isort: split
import keras
import numpy as np
import psutil
import pytest

from helpers import models
from training import Batches, computing_in, in_float32, moved, standardised_head

RECORDED = Path(__file__).resolve().parent.parent / "notebooks" / "recorded"

PROGRAM = textwrap.dedent(
    """
    import sys
    import helpers, keras, numpy as np
    from records import Records
    from training import Batches, sha256_of_weights, train_by_epochs

    random = np.random.default_rng(0)
    x, y = random.normal(size=(400, 20)).astype("float32"), random.integers(0, 3, 400)

    def build():
        model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(30, "relu"), keras.layers.Dropout(0.5),
                                  keras.layers.Dense(3, "softmax")])
        schedule = keras.optimizers.schedules.CosineDecay(1e-2, 52)
        model.compile(keras.optimizers.Adam(schedule), "sparse_categorical_crossentropy")
        return model

    def epoch(model, number):
        batches = Batches(x, y, 100, seed=5)
        batches.start(number)
        return {"loss": model.fit(batches, shuffle=False, verbose=0).history["loss"][0]}

    def measure():
        model, curves = train_by_epochs("small", build, epoch, 13, seed=5)
        return {"weights": sha256_of_weights(model), "losses": curves["loss"]}

    Records(sys.argv[1], "a small training").run(measure, seed=5)
    """
)


def start(tmp_path, name):
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / name).mkdir(exist_ok=True)
    command = [sys.executable, str(tmp_path / "program.py"), str(tmp_path / name / "record.json")]
    env = os.environ | {"HELPERS_CACHE": str(tmp_path / name / "cache"), "PYTHONPATH": str(RECORDED)}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def result(tmp_path, name):
    run = json.loads((tmp_path / name / "record.json").read_text())["runs"][0]
    return run["weights"], run["losses"]


def test_killed_training_ends_with_the_same_numbers(tmp_path):
    whole = start(tmp_path, "whole")
    output = whole.communicate()[0]
    assert whole.returncode == 0, output
    kills = 0
    for after in (1, 3, 2):  # lines that the program may print before it is killed
        process = start(tmp_path, "killed")
        lines = [process.stdout.readline() for _ in range(after)]
        assert all("epoch" in line for line in lines), lines
        time.sleep(0.05 * after)  # somewhere inside the next epoch, or while it is being kept
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
    assert kills == 3
    last = start(tmp_path, "killed")
    output = last.communicate()[0]
    assert last.returncode == 0 and "epoch 1/" not in output, "it must go on, not start anew"
    assert result(tmp_path, "whole") == result(tmp_path, "killed")


def test_batches():
    x, y = np.arange(10, dtype=np.float32)[:, None], np.arange(10)
    batches = Batches(x, y, 4, seed=3)
    parts = [batches[i] for i in range(len(batches))]
    assert [len(labels) for _, labels in parts] == [4, 4, 2]
    assert sorted(np.concatenate([labels for _, labels in parts])) == list(range(10))
    assert all((inputs[:, 0] == labels).all() for inputs, labels in parts), "labels stay with their inputs"
    first = batches.order.copy()
    batches.on_epoch_end()
    assert (batches.order != first).any(), "another order in each epoch"
    batches.start(0)
    assert (batches.order == first).all(), "the same order again for the same epoch"
    changed = Batches(x, y, 4, seed=3, change=lambda inputs, random: inputs + random.integers(100, 200))
    assert (changed[0][0] == changed[0][0]).all() and changed[0][0].min() >= 100
    with pytest.raises(ValueError, match="as many labels"):
        Batches(x, y[:-1], 4)


def test_batches_read_from_disk_do_not_pile_up_in_memory(tmp_path):
    """200 MB on disk pass through; without letting go of what was read they would all be in memory at the end."""
    path = tmp_path / "features.npy"
    stored = np.zeros((12_500, 4_000), np.float32)
    stored[:, 0] = np.arange(12_500)
    np.save(path, stored)
    del stored
    features = np.load(path, mmap_mode="r", allow_pickle=False)[:12_500]  # a part of it lets go, too
    batches = Batches(features, np.arange(12_500), 125)
    before = psutil.Process().memory_info().rss
    for index in range(len(batches)):
        inputs, labels = batches[index]
        np.testing.assert_array_equal(inputs[:, 0], labels)
        assert inputs.sum() >= 0  # every page is read
    assert psutil.Process().memory_info().rss - before < 100e6


def test_standardised_head():
    """Mean 0 and standard deviation 1 reach the classifier; a feature that never varies does no harm."""
    features = np.random.default_rng(0).normal((5, -300, 0), (2, 100, 0), (200, 3)).astype(np.float32)
    head = standardised_head(features.reshape(200, 1, 1, 3), 4, hidden=(6,), dropout=0.5)
    inside = keras.Model(head.layers[0].input, head.layers[1].output).predict(features.reshape(200, 1, 1, 3), verbose=0)
    np.testing.assert_allclose(inside.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(inside.std(axis=0), (1, 1, 0), atol=1e-4)
    assert head.output_shape == (None, 4) and models.parameter_counts(head)[1] == 3 * 6 + 6 + 6 * 4 + 4
    assert [type(layer).__name__ for layer in head.layers[2].layers] == ["Flatten", "Dense", "Dropout", "Dense"]


def test_computing_in_ends_with_its_block():
    with pytest.raises(ZeroDivisionError), computing_in("mixed_bfloat16"):
        assert keras.layers.Dense(1).compute_dtype == "bfloat16"
        1 / 0  # noqa: B018
    assert keras.layers.Dense(1).compute_dtype == "float32"


def test_in_float32():
    """Trained in bfloat16, tested in float32: the very numbers of a network that was float32 all along."""
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)
    with computing_in("mixed_bfloat16"):
        rough = models.vgg16("block3_pool", 16)
    rough.get_layer("block1_conv1").trainable = False
    parts = [keras.Input(rough.output_shape[1:]), keras.layers.Flatten(), keras.layers.Rescaling(1e-4)]
    head = keras.Sequential([*parts, keras.layers.Dense(10)])
    mixed = keras.Model(rough.input, head(rough.output))
    exact = in_float32(mixed)
    base = models.vgg16("block3_pool", 16)
    expected = head.predict(base.predict(images, verbose=0), verbose=0)
    np.testing.assert_allclose(exact.predict(images, verbose=0), expected, rtol=1e-5, atol=1e-6)
    assert np.abs(mixed.predict(images, verbose=0) - expected).max() > 1e-3 * np.abs(expected).max(), "bfloat16 rounds"
    assert [layer.name for layer in exact.layers if not layer.trainable] == ["block1_conv1"]


def dots(n: int, height: int = 33, width: int = 33, x: int = 16, y: int = 16) -> np.ndarray:
    """Black images with one white pixel."""
    images = np.zeros((n, height, width, 3), np.uint8)
    images[:, y, x] = 255
    return images


def places(images: np.ndarray) -> np.ndarray:
    """(x, y) of the centre of brightness of each image."""
    grey = images[..., 0].astype(float)
    across, down = np.arange(grey.shape[2]), np.arange(grey.shape[1])
    return np.stack([(grey * across).sum((1, 2)), (grey * down[:, None]).sum((1, 2))], 1) / grey.sum((1, 2))[:, None]


def test_moved_by_nothing_is_unchanged():
    images = np.random.default_rng(0).integers(0, 256, (3, 20, 30, 3), np.uint8)
    assert np.array_equal(moved(images, np.random.default_rng(0), 0, 0), images)


def test_moved_shifts_each_image_up_to_the_limit():
    shifts = places(moved(dots(300), np.random.default_rng(0), 0, 3)) - 16
    assert np.abs(shifts).max() <= 3.05  # OpenCV interpolates in steps of 1/32
    assert np.abs(shifts).max() > 2.8 and np.abs(shifts.mean(axis=0)).max() < 0.4
    assert np.corrcoef(shifts.T)[0, 1] < 0.2


def test_moved_turns_about_the_middle():
    found = places(moved(dots(300, x=16, y=6), np.random.default_rng(0), 30, 0)) - 16  # 10 pixels above the middle
    assert np.abs(np.hypot(*found.T) - 10).max() < 0.2
    angles = np.rad2deg(np.arctan2(found[:, 0], -found[:, 1]))
    assert -30.5 < angles.min() < -28 and 28 < angles.max() < 30.5


def test_moved_stretches_and_keeps_the_middle_of_oblong_images():
    wide = dots(300, width=65, x=52, y=16)  # 20 pixels right of the middle
    found = places(moved(wide, np.random.default_rng(0), 0, 0, stretch=0.1)) - (32, 16)
    assert 17.9 < found[:, 0].min() < 18.3 and 21.7 < found[:, 0].max() < 22.1 and np.abs(found[:, 1]).max() < 0.05
    high = places(moved(dots(300, width=65, x=32, y=26), np.random.default_rng(0), 0, 0, stretch=0.1)) - (32, 16)
    assert np.abs(high[:, 0]).max() > 0.9, "shear moves what lies above and below the middle sideways"


def test_moved_refuses_a_single_image():
    with pytest.raises(ValueError, match="images must have shape"):
        moved(dots(1)[0], np.random.default_rng(0), 5, 1)
