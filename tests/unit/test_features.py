"""helpers.features: the same numbers as the model, once, whatever happens to the process or the files."""

import errno
import json
import os
import signal
import subprocess
import sys
import time

from helpers import features  # before Keras, which it quiets

# isort: split
import keras
import numpy as np
import pytest
from keras import layers

from helpers.features import extract

N = 50  # images; with chunks of 8 the last chunk is a short one

# What a second process runs: the same model and images as here, slowly enough to be killed or joined.
CHILD = f"""
import sys, time
sys.path.insert(0, {os.path.dirname(__file__)!r})
from test_features import features, network, pictures
compute = features._compute
done = 0
def slowly(model, images, batch_size, bar):
    global done
    time.sleep(float(sys.argv[1]))
    done += len(images)
    return compute(model, images, batch_size, bar)
features.CHUNK, features._compute = 8, slowly
print("ready", flush=True)
sys.stdin.readline()
result = features.extract(network(), pictures())
print(done, float(result.sum()), flush=True)
"""


def network(seed: int = 0, name: str | None = "small", activation: str = "relu") -> keras.Model:
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, activation=activation)(layers.Rescaling(1 / 255)(inputs))
    return keras.Model(inputs, layers.MaxPooling2D()(x), **({"name": name} if name else {}))


def pictures(n: int = N) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (n, 8, 8, 3), np.uint8)


def expected(n: int = N) -> np.ndarray:
    return network().predict(pictures(n), verbose=0)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty cache folder, and chunks of 8 images."""
    monkeypatch.setenv("HELPERS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(features, "CHUNK", 8)
    return tmp_path / "cache"


@pytest.fixture
def computed(monkeypatch):
    """Counts the images that are really computed."""
    counts = []
    compute = features._compute

    def counting(model, images, batch_size, bar):
        counts.append(len(images))
        return compute(model, images, batch_size, bar)

    monkeypatch.setattr(features, "_compute", counting)
    return counts


def the_file(folder, suffix=".npy"):
    (found,) = folder.glob(f"*{suffix}")
    return found


def child(folder, delay: float) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(delay)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    return process


def go(process):
    process.stdin.write("\n")
    process.stdin.flush()


def chunks_done(folder) -> int:
    try:
        return len(json.loads(the_file(folder, ".progress").read_text())["chunks"])
    except (ValueError, OSError):
        return 0


# ---- the numbers --------------------------------------------------------------------------------


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_features_are_those_of_the_model(folder, cache, batch_size):
    found = extract(network(), pictures(), batch_size, cache)
    assert found.dtype == np.float32 and found.shape == (N, 3, 3, 4)
    np.testing.assert_allclose(found, expected(), atol=1e-6)


def test_no_images(folder):
    assert extract(network(), pictures(0)).shape == (0, 3, 3, 4)


def test_inference_mode(folder):
    """Dropout does nothing, BatchNorm uses its moving statistics, which stay as they are."""
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, layers.Dropout(0.5)(layers.BatchNormalization()(inputs)))
    before = [w.copy() for w in model.get_weights()]
    found = extract(model, pictures())
    np.testing.assert_allclose(found, pictures() / np.sqrt(1.001), rtol=1e-4)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (pictures().astype(np.float32), "uint8"),
        (pictures().tolist(), "uint8"),
        (pictures()[..., 0], "shape"),
        (pictures()[..., :1], "shape"),
        (np.zeros((2, 9, 8, 3), np.uint8), r"\(8, 8, 3\), not \(9, 8, 3\)"),
        (np.zeros((2, 0, 8, 3), np.uint8), "shape"),
    ],
)
def test_wrong_images_are_refused(folder, images, message):
    with pytest.raises(ValueError, match=message):
        extract(network(), images)
    assert not folder.exists()


def test_wrong_batch_size_is_refused(folder):
    with pytest.raises(ValueError, match="batch_size must be at least 1, not 0"):
        extract(network(), pictures(), batch_size=0)


# ---- the cache ----------------------------------------------------------------------------------


def test_second_call_reads_the_file(folder, computed):
    first = extract(network(), pictures())
    assert sum(computed) == N
    second = extract(network(), pictures())
    assert sum(computed) == N and np.array_equal(first, second)
    assert isinstance(second, np.memmap) and not second.flags.writeable
    assert sorted(p.suffix for p in folder.iterdir()) in ([".json", ".lock", ".npy"], [".json", ".npy"])


def test_cache_off_writes_nothing(folder):
    extract(network(), pictures(), cache=False)
    assert not folder.exists()


def test_what_is_another_result(folder, computed):
    """One weight, one pixel, the architecture, the number of images: each is computed anew."""
    extract(network(), pictures())
    changed = network()
    kernel, bias = changed.layers[2].get_weights()
    kernel[0, 0, 0, 0] = np.nextafter(kernel[0, 0, 0, 0], np.float32(9))
    changed.layers[2].set_weights([kernel, bias])
    other = pictures()
    other[-1, -1, -1, -1] ^= 1
    for model, images in ((changed, pictures()), (network(), other), (network(activation="elu"), pictures())):
        computed.clear()
        np.testing.assert_allclose(extract(model, images), model.predict(images, verbose=0), atol=1e-6)
        assert sum(computed) == N
    computed.clear()
    extract(network(), pictures(N - 1))
    assert sum(computed) == N - 1


def test_automatic_names_do_not_matter(folder, computed):
    extract(network(name=None), pictures())
    extract(network(name=None), pictures())  # its layers and itself have other running numbers
    assert sum(computed) == N


def damage_byte(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("suffix", "damage"),
    [
        (".npy", damage_byte),
        (".npy", lambda path: path.write_bytes(path.read_bytes()[:-100])),
        (".npy", lambda path: path.write_bytes(b"")),
        (".json", lambda path: path.write_text("{")),
        (".json", lambda path: path.write_text("{}")),
        (".json", lambda path: path.write_text("[]")),
    ],
    ids=["one bit", "truncated", "emptied", "note cut off", "note empty", "note of another kind"],
)
def test_damaged_cache_is_computed_again_and_said(folder, computed, capsys, suffix, damage):
    extract(network(), pictures())
    damage(the_file(folder, suffix))
    computed.clear()
    np.testing.assert_allclose(extract(network(), pictures()), expected(), atol=1e-6)
    assert sum(computed) == N
    said = capsys.readouterr().err
    assert "damaged: computing them again" in said and the_file(folder).name in said
    computed.clear()
    extract(network(), pictures())
    assert not computed


def test_deleted_features_are_computed_again(folder, computed):
    extract(network(), pictures())
    the_file(folder).unlink()
    np.testing.assert_allclose(extract(network(), pictures()), expected(), atol=1e-6)
    assert sum(computed) == 2 * N


def test_folder_that_cannot_be_made(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("HELPERS_CACHE", str(tmp_path / "file" / "cache"))
    np.testing.assert_allclose(extract(network(), pictures()), expected(), atol=1e-6)
    assert "features are not cached" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_permission(folder, capsys):
    folder.mkdir(mode=0o555)
    np.testing.assert_allclose(extract(network(), pictures()), expected(), atol=1e-6)
    assert "features are not cached" in capsys.readouterr().err and not list(folder.iterdir())


def test_full_disk(folder, monkeypatch, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(features, "write_atomically", full)
    np.testing.assert_allclose(extract(network(), pictures()), expected(), atol=1e-6)
    assert "No space left" in capsys.readouterr().err
    assert not list(folder.glob("*.npy"))


# ---- interruptions and company --------------------------------------------------------------------


def interrupted(folder) -> int:
    """Kill a process with SIGKILL in the middle of its work; the number of chunks that it had noted."""
    process = child(folder, 0.4)
    go(process)
    deadline = time.time() + 120
    while not (folder.exists() and list(folder.glob("*.progress")) and chunks_done(folder) >= 2):
        assert time.time() < deadline and process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = chunks_done(folder)
    assert 2 <= done < -(-N // 8) and not list(folder.glob("*.npy"))
    return done


def test_killed_and_resumed(folder, computed):
    done = interrupted(folder)
    np.testing.assert_allclose(extract(network(), pictures()), expected(), atol=1e-6)
    assert sum(computed) == N - 8 * done
    assert not list(folder.glob("*.partial")) and not list(folder.glob("*.progress"))


def test_killed_and_the_half_is_damaged(folder, computed):
    """What was changed after the interruption is not taken for a result."""
    interrupted(folder)
    partial = the_file(folder, ".partial")
    content = bytearray(partial.read_bytes())
    content[128 + 8 * 3 * 3 * 4 * 4 + 3] ^= 64  # a number of the second chunk, behind the header of 128 bytes
    partial.write_bytes(content)
    np.testing.assert_allclose(extract(network(), pictures()), expected(), atol=1e-6)
    assert sum(computed) == N - 8


def test_killed_before_the_last_step(folder, computed, monkeypatch):
    """All chunks are there, only the renaming is not: nothing is computed again."""

    def killed(*_):
        raise KeyboardInterrupt

    replace = os.replace
    monkeypatch.setattr(features.os, "replace", lambda a, b: killed() if str(b).endswith(".npy") else replace(a, b))
    with pytest.raises(KeyboardInterrupt):
        extract(network(), pictures())
    monkeypatch.setattr(features.os, "replace", replace)
    computed.clear()
    np.testing.assert_allclose(extract(network(), pictures()), expected(), atol=1e-6)
    assert not computed


def test_two_processes_do_the_work_once(folder):
    processes = [child(folder, 0.2) for _ in range(2)]
    for process in processes:
        go(process)
    answers = [process.communicate(timeout=120)[0].split() for process in processes]
    assert sorted(int(done) for done, _ in answers) == [0, N]
    assert answers[0][1] == answers[1][1]
    np.testing.assert_allclose(float(answers[0][1]), expected().sum(), rtol=1e-4)


def test_one_progress_bar(folder, monkeypatch, capsys):
    monkeypatch.setenv("HELPERS_PROGRESS", "1")
    extract(network(), pictures())
    shown = capsys.readouterr().err
    assert f"{N}/{N}" in shown and "small" in shown and "8/8" not in shown
    monkeypatch.setenv("HELPERS_PROGRESS", "0")
    extract(network(), pictures(N - 1))
    assert capsys.readouterr().err == ""
