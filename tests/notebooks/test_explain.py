"""Explanations point at what they explain: at the animal, at the class asked for, at the trained network.

The functions are those that notebook 02 defines.
"""

import cv2
import numpy as np
import pytest

from helpers import data, models  # before keras
from helpers.images import center_crop, resize

import keras  # isort: skip

EGYPTIAN_CAT, BULL_MASTIFF, CONVERTIBLE, JEEP = 285, 243, 511, 609

# The cat's outline in chelsea.png, stretched to 224 x 224 pixels: (column, row), drawn by hand.
OUTLINE = [(18, 0), (198, 0), (184, 55), (181, 150), (150, 223), (0, 223), (0, 95), (16, 80)]
FACE = [(60, 25), (170, 25), (181, 90), (175, 150), (150, 210), (80, 210), (28, 140), (35, 80)]


@pytest.fixture(scope="module")
def grad_cam(lesson):
    return lesson("02", "grad_cam").grad_cam


@pytest.fixture(scope="module")
def occlusion(lesson):
    return lesson("02", "occlusion").occlusion


@pytest.fixture(scope="module")
def network():
    return models.efficientnet_lite0()


@pytest.fixture(scope="module")
def cat():
    return resize(data.sample_image("chelsea"), 224)


@pytest.fixture(scope="module")
def dog():
    return resize(data.imagenet_images().images[0], 224)


def side_by_side(left, right):
    return resize(np.concatenate([left, right], axis=1), 224)


def share(heat, polygon) -> tuple[float, float]:
    """The share of the map inside a polygon, and the share of the area."""
    mask = cv2.fillPoly(np.zeros((224, 224), np.uint8), [np.array(polygon)], 1).astype(bool)
    return heat[mask].sum() / heat.sum(), mask.mean()


def left_half(heat) -> float:
    return heat[:, :112].sum() / heat.sum()


# ---- Grad-CAM -----------------------------------------------------------------------------------


def test_grad_cam_of_the_cat_lies_on_the_cat(grad_cam, network, cat):
    heat = grad_cam(network, cat[None], EGYPTIAN_CAT)
    assert heat.shape == (224, 224) and heat.dtype == np.float32 and heat.min() >= 0 and heat.max() == 1
    on_cat, area = share(heat, OUTLINE)
    assert on_cat > 0.88 and on_cat / area > 2.5 * (1 - on_cat) / (1 - area)  # denser on the cat than beside it
    on_face, area = share(heat, FACE)
    assert area < 0.5 and on_face > 0.65


@pytest.mark.parametrize("cat_is_left", [True, False])
def test_grad_cam_finds_the_class_asked_for(grad_cam, network, cat, dog, cat_is_left):
    pair = side_by_side(cat, dog) if cat_is_left else side_by_side(dog, cat)
    of_cat = left_half(grad_cam(network, pair[None], EGYPTIAN_CAT))
    of_dog = left_half(grad_cam(network, pair[None], BULL_MASTIFF))
    assert (of_cat > 0.85 and of_dog < 0.25) if cat_is_left else (of_cat < 0.15 and of_dog > 0.75)


def test_random_weights_destroy_the_map(grad_cam, network, cat, dog):
    """J. Adebayo et al., 2018: an explanation of the network must not survive without its weights."""
    pair = side_by_side(cat, dog)
    trained = grad_cam(network, pair[None], EGYPTIAN_CAT)
    shares, alike = [], []
    for seed in range(4):
        keras.utils.set_random_seed(seed)
        for kept in (0, len(network.layers) - 1):  # everything random; only the class scores random
            copy = keras.models.clone_model(network)
            for new, old in list(zip(copy.layers, network.layers, strict=True))[:kept]:
                new.set_weights(old.get_weights())
            heat = grad_cam(copy, pair[None], EGYPTIAN_CAT)
            if heat.any():
                shares.append(left_half(heat))
                alike.append(np.corrcoef(heat.ravel(), trained.ravel())[0, 1])
    assert len(shares) >= 5 and left_half(trained) > 0.9
    assert np.mean(shares) < 0.7 and np.mean(alike) < 0.4


def test_grad_cam_is_cam_where_average_pooling_precedes_the_scores(grad_cam, network, cat):
    """B. Zhou et al., 2016: features times the class's weights, before enlarging."""
    features = keras.Model(network.input, network.get_layer("head_relu").output).predict_on_batch(cat[None])[0]
    cam = np.maximum(features @ network.get_layer("predictions").get_weights()[0][:, EGYPTIAN_CAT], 0)
    cam = cv2.resize(cam, (224, 224), interpolation=cv2.INTER_LINEAR)
    assert np.allclose(grad_cam(network, cat[None], EGYPTIAN_CAT), cam / cam.max(), atol=1e-4)


def test_grad_cam_of_another_layer(grad_cam, network, cat, dog):
    pair = side_by_side(cat, dog)
    heat = grad_cam(network, pair[None], EGYPTIAN_CAT, layer="block15_project_bn")
    assert heat.max() == 1 and left_half(heat) > 0.8
    assert not np.allclose(heat, grad_cam(network, pair[None], EGYPTIAN_CAT), atol=0.1)


def small_network(kernel=1.0):
    inputs = keras.Input((6, 10, 3))
    x = keras.layers.Conv2D(1, 1, kernel_initializer="ones", name="map")(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dense(2, activation="softmax", kernel_initializer=keras.initializers.Constant(kernel))(x)
    return keras.Model(inputs, x)


def test_grad_cam_in_numbers(grad_cam):
    """One channel, the sum of the colours: the map is that sum, wherever the class likes it."""
    image = np.random.default_rng(0).uniform(size=(1, 6, 10, 3)).astype(np.float32)
    expected = image[0].sum(axis=-1)
    assert np.allclose(grad_cam(small_network(), image, 1), expected / expected.max(), atol=1e-6)


def test_nothing_speaks_for_the_class(grad_cam):
    heat = grad_cam(small_network(kernel=-1.0), np.ones((1, 6, 10, 3), np.float32), 0)
    assert heat.shape == (6, 10) and not heat.any()


def test_the_solutions_use_the_lessons_grad_cam(lesson_and_solution):
    in_lesson, in_solutions = lesson_and_solution("02", "grad_cam")
    assert in_lesson == in_solutions


# ---- occlusion ----------------------------------------------------------------------------------


def brightness_of_corner(images):
    """Two scores: the brightness of a corner of 8 x 8 pixels, and its opposite."""
    bright = images[:, :8, :8].mean(axis=(1, 2, 3)) / 255
    return np.stack([bright, -bright], axis=1)


def test_occlusion_finds_what_the_score_needs(occlusion):
    image = np.full((40, 50, 3), 255, np.uint8)
    loss = occlusion(brightness_of_corner, image, patch=8, step=8)
    assert loss.shape == (2, 40, 50) and loss.dtype == np.float32
    assert np.allclose(loss[0, :8, :8], 128 / 255) and not loss[0, 8:].any() and not loss[0, :, 8:].any()
    assert np.allclose(loss[1], -loss[0])
    assert (image == 255).all()


@pytest.mark.parametrize(("patch", "step"), [(7, 5), (40, 13), (16, 16), (1, 1)])
def test_occlusion_covers_every_pixel(occlusion, patch, step):
    def covered(images):
        return (images == 127).mean(axis=(1, 2, 3))[:, None]

    loss = occlusion(covered, np.zeros((40, 45, 3), np.uint8), patch, step)
    assert np.allclose(loss, -(patch**2) / (40 * 45), rtol=1e-5)


def test_both_methods_blame_the_same_place_for_the_mistake(grad_cam, occlusion, network):
    """An off-road car is taken for a convertible; hiding the place that both point at cures it."""
    car = center_crop(data.imagenet_images().images[7], 224)
    (loss,) = occlusion(lambda x: network.predict_on_batch(x)[:, [CONVERTIBLE]], car, patch=56, step=28)
    heat = grad_cam(network, car[None], CONVERTIBLE)
    assert np.corrcoef(loss.ravel(), heat.ravel())[0, 1] > 0.5
    row, column = np.unravel_index(loss.argmax(), loss.shape)
    covered = car.copy()
    covered[max(row - 32, 0) : row + 32, max(column - 32, 0) : column + 32] = 127
    before, after = network.predict_on_batch(np.stack([car, covered]))[:, CONVERTIBLE]
    assert before > 0.6 and after < before / 4
