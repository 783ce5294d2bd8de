"""helpers.features: the same numbers as the model, once, whatever happens to the process or the files."""

import os
import subprocess
import sys
import time
from pathlib import Path

import joblib
import keras
import numpy as np
import pytest
from keras import layers

from helpers import features
from helpers.features import extract

N = 50  # images; with chunks of 8 the last chunk is a short one


def network(seed: int = 0, name: str | None = "small", activation: str = "relu") -> keras.Model:
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, activation=activation)(layers.Rescaling(1 / 255)(inputs))
    return keras.Model(inputs, layers.MaxPooling2D()(x), **({"name": name} if name else {}))


def images(n: int = N) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (n, 8, 8, 3), np.uint8)


@pytest.fixture(scope="module", autouse=True)
def small_chunks():
    assert features.CHUNK % features.BATCH == 0, "chunks are whole batches, as without a cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "CHUNK", 8)
        patch.setattr(features, "BATCH", 8)
        yield


@pytest.fixture(scope="module")
def expected() -> np.ndarray:
    return extract(network(), images(), cache=False)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty cache folder."""
    monkeypatch.setenv("HELPERS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def computed(monkeypatch, expected):
    """Lists how many images were really computed, call by call."""
    counts, compute = [], features._compute
    monkeypatch.setattr(features, "_compute", lambda model, part: counts.append(len(part)) or compute(model, part))
    return counts


def the_file(folder):
    (found,) = folder.glob("*.npy")
    return found


# ---- the numbers --------------------------------------------------------------------------------


def test_features_are_those_of_the_model(folder, expected):
    assert expected.dtype == np.float32 and expected.shape == (N, 3, 3, 4)
    extract(network(), images(), cache=False)
    assert not folder.exists()
    np.testing.assert_allclose(expected, network().predict(images(), verbose=0), atol=1e-6)
    assert extract(network(), images(0)).shape == (0, 3, 3, 4)


def test_inference_mode(folder):
    """Dropout does nothing, BatchNorm uses its moving statistics, which stay as they are."""
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, layers.Dropout(0.5)(layers.BatchNormalization()(inputs)))
    before = [weight.copy() for weight in model.get_weights()]
    np.testing.assert_allclose(extract(model, images()), images() / np.sqrt(1.001), rtol=1e-4)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


def test_wrong_images_are_refused(folder):
    for wrong, message in ((np.float32, "uint8"), (np.uint8, r"\(8, 8, 3\), not \(9, 8, 3\)")):
        with pytest.raises(ValueError, match=message):
            extract(network(), np.zeros((2, 9, 8, 3), wrong))
    assert not folder.exists()


# ---- the cache ----------------------------------------------------------------------------------


def test_second_call_reads_the_file(folder, computed, expected):
    first = extract(network(), images())
    assert sum(computed) == N
    second = extract(network(), images())
    assert sum(computed) == N and np.array_equal(first, expected) and np.array_equal(second, expected)
    assert isinstance(second, np.memmap) and not second.flags.writeable
    assert {file.suffix for file in folder.iterdir()} <= {".lock", ".npy"}, "the chunks are gone"


def test_what_is_another_result(folder, computed):
    """One weight, one pixel, the architecture, the number of images: each is computed anew."""
    extract(network(), images())
    changed = network()
    kernel, bias = changed.layers[2].get_weights()
    kernel[0, 0, 0, 0] = np.nextafter(kernel[0, 0, 0, 0], np.float32(9))
    changed.layers[2].set_weights([kernel, bias])
    other = images()
    other[-1, -1, -1, -1] ^= 1
    variants = [(changed, images()), (network(), other), (network(activation="elu"), images()), (network(), other[1:])]
    for model, given in variants:
        computed.clear()
        np.testing.assert_allclose(extract(model, given), model.predict(given, verbose=0), atol=1e-6)
        assert sum(computed) == len(given)


def test_automatic_names_do_not_matter(folder, computed):
    extract(network(name=None), images())
    extract(network(name=None), images())  # its layers and itself have other running numbers
    assert sum(computed) == N


@pytest.mark.parametrize("damage", [
    lambda file: file.write_bytes(file.read_bytes()[:-100]),
    lambda file: file.write_bytes(file.read_bytes().replace(b"<f4", b"<i4", 1)),
    Path.unlink,
])  # fmt: skip
def test_damaged_cache_is_computed_again(folder, computed, expected, damage):
    extract(network(), images())
    damage(the_file(folder))
    assert np.array_equal(extract(network(), images()), expected) and sum(computed) == 2 * N


@pytest.mark.parametrize("problem", ["No space left", "File exists"])
def test_without_a_cache_where_it_cannot_be_written(folder, monkeypatch, capsys, expected, problem):
    monkeypatch.setattr(features, "write_atomically", lambda *_: Path("/dev/full").write_bytes(b"features"))
    if problem == "File exists":
        folder.touch()
    assert np.array_equal(extract(network(), images()), expected)
    assert f"features are not cached in {folder}: {problem}" in capsys.readouterr().err
    assert not list(folder.glob("*.npy"))


# ---- interruptions and company --------------------------------------------------------------------


@pytest.mark.parametrize("done", [0, 3])
def test_interrupted_and_resumed(folder, computed, monkeypatch, expected, done):
    """What is whole is kept, also when the chunks were finished in another order."""
    write = features.write_atomically

    def interrupt_after(file, content):
        if len(computed) > done:
            raise KeyboardInterrupt
        write(file, content)

    monkeypatch.setattr(features, "write_atomically", interrupt_after)
    with pytest.raises(KeyboardInterrupt):
        extract(network(), images())
    monkeypatch.setattr(features, "write_atomically", write)
    computed.clear()
    assert np.array_equal(extract(network(), images()), expected) and sum(computed) == N - 8 * done


CHILD = f"""
import sys, time, helpers
sys.path.insert(0, {os.path.dirname(__file__)!r})
from test_features import extract, features, images, network
features.CHUNK = features.BATCH = 8
write = features.write_atomically
def slowly(file, content):
    time.sleep(float(sys.argv[1]))
    print("chunk", flush=True)
    write(file, content)
features.write_atomically = slowly
extract(network(), images())
print("end", flush=True)
"""


def child(delay: float) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", CHILD, str(delay)], stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_killed_at_random_moments(folder, expected):
    """Kills with -9, each within the work: no chunk that was written is lost, and the numbers are right.

    Two kills, or as many as the variable KILLS says.
    """
    random, kills, killed = np.random.default_rng(), int(os.environ.get("KILLS", 2)), 0
    while killed < kills:
        done = 0
        while done < -(-N // 8) - 1 and killed < kills:
            process = child(0.1)
            assert process.stdout.readline() == "chunk\n"
            time.sleep(random.uniform(0, 0.3))
            process.kill()
            process.communicate()
            chunks = [file for file in folder.glob("*.chunks/*") if file.suffix == ""]
            assert len(chunks) >= done or list(folder.glob("*.npy"))
            done, killed = len(chunks) if chunks else N, killed + 1
        assert np.array_equal(extract(network(), images()), expected)
        the_file(folder).unlink()


@pytest.mark.slow
def test_two_processes_do_the_work_once(folder, expected):
    processes = [child(0.05), child(0.05)]
    printed = [process.communicate(timeout=120)[0].split() for process in processes]
    assert sorted(map(len, printed)) == [1, 1 + -(-N // 8)] and all(lines[-1] == "end" for lines in printed)
    assert np.array_equal(np.load(the_file(folder)), expected)


@pytest.mark.slow
def test_two_workers_give_the_same_bits_and_stay_quiet(folder, expected, capfd):
    with joblib.parallel_config("loky", n_jobs=2):
        assert np.array_equal(extract(network(), images()), expected)
    assert capfd.readouterr().err == "" and {file.suffix for file in folder.iterdir()} <= {".lock", ".npy"}
