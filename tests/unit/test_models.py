"""Networks: the right size, the right preprocessing inside, the right answers on real photographs."""

import keras
import numpy as np
import pytest
import random_resnet50

from helpers import data, models
from helpers.assets import FileError
from helpers.images import center_crop


@pytest.fixture(scope="module")
def photographs():
    labelled = data.imagenet_images()
    return np.stack([center_crop(image, 224) for image in labelled.images]), labelled.labels


CUTS = [("block1_pool", 14, (7, 7, 64)), ("block3_pool", 32, (4, 4, 256)), ("block5_pool", 48, (1, 1, 512))]


@pytest.mark.parametrize(("cut", "size", "shape"), CUTS)
def test_vgg16_at_any_cut_and_size(cut, size, shape):
    assert models.vgg16(cut, size).output_shape[1:] == shape


def as_in_keras(images):
    return keras.applications.vgg16.preprocess_input(images.astype(np.float32))


EXPECTED = {"imagenet": as_in_keras, "unit": lambda images: images / 255, "none": lambda images: images}


@pytest.mark.parametrize("mode", EXPECTED)
def test_preprocessing(mode):
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    inputs = keras.Input(images.shape[1:])
    found = keras.Model(inputs, models.vgg16_preprocessing(inputs, mode)).predict(images, verbose=0)
    np.testing.assert_allclose(found, EXPECTED[mode](images), atol=1e-4)


@pytest.mark.parametrize(("version", "numbers", "among_five"), [(0, 4_694_024, 19), (2, 6_150_168, 20)])
def test_efficientnet_lite_recognises_the_photographs(photographs, version, numbers, among_five):
    images, labels = photographs
    model = models.efficientnet_lite(version)
    assert model.name == f"efficientnet_lite{version}" and model.count_params() == numbers
    ranked = np.argsort(-model.predict(images, batch_size=20, verbose=0), axis=1)
    assert (ranked[:, 0] == labels).sum() >= 17
    assert (ranked[:, :5] == labels[:, None]).any(axis=1).sum() >= among_five


def test_efficientnet_lite0_as_feature_extractor():
    assert models.efficientnet_lite0(size=64, include_top=False).output_shape == (None, 2, 2, 1280)


def test_resnet50_takes_only_verified_weights(tmp_path, monkeypatch):
    """The whole path on a file of random weights, whose digest the test declares; first without declaring it."""
    file = tmp_path / "weights.h5"
    original, digest = random_resnet50.write(file)
    with pytest.raises(FileError, match="weights.h5 is not the expected file"):
        models.resnet50(str(file))
    monkeypatch.setattr(models.weight_files, "_RESNET50_DIGEST", digest)
    model = models.resnet50(str(file))
    assert model.count_params() == 25_636_712
    assert np.array_equal(*(network.get_layer("predictions").get_weights()[0] for network in (model, original)))


def test_decode_predictions():
    probabilities = np.zeros((2, 1000), np.float32)
    probabilities[0, [385, 101, 386]] = 0.7, 0.2, 0.1
    probabilities[1, 0] = 1
    decoded = models.decode_predictions(probabilities, top=3)
    assert [name for _, name, _ in decoded[0]] == ["Indian_elephant", "tusker", "African_elephant"]
    assert decoded[0][0] == ("n02504013", "Indian_elephant", pytest.approx(0.7)) and decoded[1][0][1] == "tench"
