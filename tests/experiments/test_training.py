"""Trainings of the recorded programs: a kill changes no number, and batches and precision are as said."""

import json
import os
import subprocess
import sys
import time

import keras
import numpy as np
import psutil
import pytest

from helpers.models import vgg16
from records import FOLDER
from training import Batches, computing_in, in_float32

PROGRAM = """
import sys
import helpers, keras, numpy as np
from records import Records
from training import Batches, sha256_of_weights, train_by_epochs

random = np.random.default_rng(0)
x, y = random.normal(size=(400, 20)).astype("float32"), random.integers(0, 3, 400)

def build():
    layers = keras.layers.Dense(30, "relu"), keras.layers.Dropout(0.5), keras.layers.Dense(3, "softmax")
    model = keras.Sequential([keras.Input((20,)), *layers])
    schedule = keras.optimizers.schedules.CosineDecay(1e-2, 52)
    model.compile(keras.optimizers.Adam(schedule), "sparse_categorical_crossentropy")
    return model

def epoch(model, number):
    batches = Batches(x, y, 100, seed=5)
    batches.start(number)
    return {"loss": model.fit(batches, shuffle=False, verbose=0).history["loss"][0]}

def measure():
    model, curves = train_by_epochs("small", build, epoch, 9, seed=5)
    return {"weights": sha256_of_weights(model), "losses": curves["loss"]}

Records(sys.argv[1], "a small training", "program.py").run(measure, seed=5)
"""


@pytest.mark.slow
def test_killed_training_ends_with_the_same_numbers(tmp_path):
    def start(name):
        command = [sys.executable, "-c", PROGRAM, str(tmp_path / f"{name}.json")]
        where = {"env": os.environ | {"HELPERS_CACHE": str(tmp_path / name)}, "cwd": FOLDER.parents[1] / "experiments"}
        return subprocess.Popen(command, **where, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    for after in (1, 3):  # lines that the program may print before it is killed
        process = start("killed")
        lines = [process.stdout.readline() for _ in range(after)]
        assert all("epoch" in line for line in lines), lines
        time.sleep(0.05 * after)  # somewhere inside the next epoch, or while it is being kept
        process.kill()
        process.communicate()
        assert process.returncode < 0
    for name in ("killed", "whole"):
        process = start(name)
        output = process.communicate()[0]
        assert process.returncode == 0 and ("epoch 1/" in output) == (name == "whole"), output
    runs = [json.loads((tmp_path / f"{name}.json").read_text())["runs"][0] for name in ("killed", "whole")]
    assert runs[0]["weights"] == runs[1]["weights"] and runs[0]["losses"] == runs[1]["losses"]


def test_batches():
    x, y = np.arange(10, dtype=np.float32)[:, None], np.arange(10)
    batches = Batches(x, y, 4, seed=3)
    orders = [np.concatenate([labels for _, labels in (batches[i] for i in range(len(batches)))])]
    assert all((inputs[:, 0] == labels).all() for inputs, labels in (batches[0], batches[2])), "labels stay with inputs"
    for epoch in (1, 0):
        batches.start(epoch)
        orders.append(np.concatenate([batches[i][1] for i in range(3)]))
    assert sorted(orders[0]) == list(range(10)) and (orders[0] != orders[1]).any() and (orders[0] == orders[2]).all()
    changed = Batches(x, y, 4, seed=3, change=lambda inputs, random: inputs + random.integers(100, 200))
    assert (changed[0][0] == changed[0][0]).all() and changed[0][0].min() >= 100
    with pytest.raises(ValueError, match="as many labels"):
        Batches(x, y[:-1], 4)


def test_batches_read_from_disk_do_not_pile_up_in_memory(tmp_path):
    """200 MB on disk pass through; without letting go of what was read they would all be in memory at the end."""
    np.save(tmp_path / "features.npy", np.repeat(np.arange(12_500, dtype=np.float32)[:, None], 4_000, axis=1))
    features = np.load(tmp_path / "features.npy", mmap_mode="r", allow_pickle=False)[:12_500]  # a part lets go, too
    batches = Batches(features, np.arange(12_500), 125)
    before = psutil.Process().memory_info().rss
    for index in range(len(batches)):
        inputs, labels = batches[index]
        np.testing.assert_array_equal(inputs[:, 0], labels)
        assert inputs.sum() >= 0  # every page is read
    assert psutil.Process().memory_info().rss - before < 100e6


def test_in_float32():
    """Trained in bfloat16, tested in float32: the very numbers of a network that was float32 all along."""
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)
    with computing_in("mixed_bfloat16"):
        rough = vgg16("block3_pool", 16)
    rough.get_layer("block1_conv1").trainable = False
    parts = [keras.Input(rough.output_shape[1:]), keras.layers.Flatten(), keras.layers.Rescaling(1e-4)]
    head = keras.Sequential([*parts, keras.layers.Dense(10)])  # float32: the block has ended
    mixed = keras.Model(rough.input, head(rough.output))
    exact = in_float32(mixed)
    base = vgg16("block3_pool", 16)
    expected = head.predict(base.predict(images, verbose=0), verbose=0)
    np.testing.assert_allclose(exact.predict(images, verbose=0), expected, rtol=1e-5, atol=1e-6)
    assert np.abs(mixed.predict(images, verbose=0) - expected).max() > 1e-3 * np.abs(expected).max(), "bfloat16 rounds"
    assert [layer.name for layer in exact.layers if not layer.trainable] == ["block1_conv1"]
