"""Explanations point at what they explain: at the animal, at the class asked for, at the trained network.

The functions are those that notebook 02 defines.
"""

import cv2
import numpy as np
import pytest

from experiments import lesson
from helpers import data, models  # before keras
from helpers.images import resize

import keras  # isort: skip

EGYPTIAN_CAT, BULL_MASTIFF = 285, 243


@pytest.fixture(scope="module")
def page():
    return lesson.load("02")


@pytest.fixture(scope="module")
def network():
    return models.efficientnet_lite0()


CAT = resize(data.sample_image("chelsea"), 224)
PAIR = resize(np.concatenate([CAT, resize(data.imagenet_images().images[0], 224)], axis=1), 224)


def left_half(heat) -> float:
    return cv2.resize(heat, (224, 7))[:, :112].sum() / cv2.resize(heat, (224, 7)).sum()


# ---- Grad-CAM -----------------------------------------------------------------------------------


def test_grad_cam_finds_the_class_asked_for(page, network):
    for image, of_cat in ((PAIR, left_half), (PAIR[:, ::-1], lambda heat: 1 - left_half(heat))):
        cat, dog = (page.grad_cam(network, image[None] * 1.0, each) for each in (EGYPTIAN_CAT, BULL_MASTIFF))
        assert of_cat(cat) > 0.85 and of_cat(dog) < 0.25


def test_grad_cam_is_cam_in_points_of_score(page, network):
    """B. Zhou et al., 2016: after average pooling the map is features times weights, and adds up to the score."""
    image = CAT[None].astype("float32")
    features = keras.Model(network.input, network.get_layer("head_relu").output).predict_on_batch(image)[0]
    cam = features @ network.get_layer("predictions").get_weights()[0] / 49
    assert np.allclose(page.grad_cam(network, image, EGYPTIAN_CAT), np.maximum(cam[..., EGYPTIAN_CAT], 0), atol=1e-4)
    assert network.layers[-1].activation is keras.activations.softmax  # left as it was


@pytest.mark.parametrize("frozen", [False, True])
def test_grad_cam_on_any_network_of_the_series(page, frozen):
    """It has a gradient, frozen or not; and a network inside a network gives the map of the same layers in a row."""
    image = np.random.default_rng(0).uniform(0, 255, (1, 32, 32, 3)).astype("float32")
    vgg16 = models.vgg16("block3_pool", 32)
    head = keras.Sequential([keras.Input((4, 4, 256)), keras.layers.Flatten(), keras.layers.Dense(10, "softmax")])
    x = vgg16.output
    for layer in head.layers:
        x = layer(x)
    series = [keras.Model(vgg16.input, scores) for scores in (x, head(vgg16.output))]
    series += [keras.Sequential([keras.Input((32, 32, 3)), vgg16, head])]
    series += [models.efficientnet_lite(2, size=32), keras.applications.ResNet50(weights=None, input_shape=(32, 32, 3))]
    for model in series:
        model.trainable = not frozen
        for weight in model.weights:  # what the tape looks at: Keras's own freezing leaves it as it is
            weight.value._trainable = not frozen
    row, head_inside, both_inside, lite2, resnet50 = (page.grad_cam(model, image, 3) for model in series)
    assert row.any() and np.allclose(row, head_inside, rtol=1e-4) and np.allclose(row, both_inside, rtol=1e-4)
    assert lite2.shape == resnet50.shape == (1, 1) and np.isfinite([lite2, resnet50]).all()


def test_grad_cam_of_another_layer_and_of_several_classes(page, network):
    heat = page.grad_cam(network, PAIR[None].astype("float32"), [281, 282, EGYPTIAN_CAT], layer="block15_project_bn")
    assert heat.shape == (7, 7) and left_half(heat) > 0.8


# ---- occlusion, and the test of place ------------------------------------------------------------


def test_occlusion_keeps_what_each_square_takes(page):
    def corner(images):  # two scores: the brightness of a corner of 8 x 8 pixels, and its opposite
        bright = images[:, :8, :8].mean(axis=(1, 2, 3)) / 255
        return np.stack([bright, -bright], axis=1)

    image = np.full((40, 50, 3), 255, np.uint8)
    loss = page.occlusion(corner, image, patch=8, step=8)
    assert loss.shape == (2, 5, 6) and np.allclose(loss[1], -loss[0]) and (image == 255).all()
    assert loss[0, 0, 0] == pytest.approx(128 / 255) and np.count_nonzero(loss[0]) == 1


def test_a_square_at_the_maximum(page):
    heat, image = np.zeros((7, 7)), np.zeros((224, 224, 3), np.uint8)
    for place, corner in (((0, 0), (0, 0)), ((6, 3), (160, 80)), ((2, 4), (48, 112))):
        heat[:] = 0
        heat[place] = 1
        rows, columns = np.nonzero(page.at_maximum(image, heat)[..., 0])
        assert (rows.min(), columns.min()) == corner and len(rows) == 64 * 64
