"""Records of long experiments: nothing is done twice, nothing half written, and a kill changes no number."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

import helpers  # noqa: F401
from helpers.features import Batches
from helpers.files import FileError
from helpers.records import Records

PROGRAM = textwrap.dedent(
    """
    import sys
    import helpers, keras, numpy as np
    from helpers.features import Batches
    from helpers.records import Records, sha256_of_weights, train_by_epochs

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
    env = os.environ | {"HELPERS_CACHE": str(tmp_path / name / "cache")}
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


def test_a_recorded_run_is_not_repeated(tmp_path):
    calls = []
    for _ in range(2):
        records = Records(tmp_path / "r.json", "test")
        run = records.run(lambda: calls.append(1) or {"accuracy": 0.5}, seed=1, n=10)
    assert calls == [1] and run["accuracy"] == 0.5 and run["seed"] == 1
    records.run(lambda: {"accuracy": 0.6}, seed=2, n=10)
    assert [r["accuracy"] for r in records.find(n=10)] == [0.5, 0.6]
    content = json.loads((tmp_path / "r.json").read_text())
    assert content["what"] == "test" and {"date", "machine", "versions"} <= set(content)
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"], "nothing is left beside it"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"runs": {}}', '{"runs": [1]}', '{"what": "x"}'])
def test_a_damaged_record_is_refused_and_kept(tmp_path, content):
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(FileError, match="r.json is not a record of runs.*move it away"):
        Records(tmp_path / "r.json", "test")
    assert (tmp_path / "r.json").read_text() == content


def test_a_failing_run_leaves_the_record_alone(tmp_path):
    records = Records(tmp_path / "r.json", "test")
    records.run(lambda: {"accuracy": 1.0}, seed=0)
    before = (tmp_path / "r.json").read_bytes()
    with pytest.raises(ZeroDivisionError):
        records.run(lambda: {"accuracy": 1 / 0}, seed=1)
    assert (tmp_path / "r.json").read_bytes() == before


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
