"""The recorded race of notebook 01: four kinds of blocks at equal multiply-adds, on small colour images.

    python experiments/race.py --cifar cifar10.zip

It counts, times and trains as the lesson does. The archive holds CIFAR-10 as files train/CLASS/NUMBER.jpg and
test/CLASS/NUMBER.jpg; the first 500 training and 500 test images of each class are used. All networks are trained
alike: Adam, a rate that falls to zero, no augmentation, nothing chosen on the test images. Every run goes into
notebooks/recorded/01_race.json as it ends; interrupted, it goes on there: about an hour on two cores.
"""

import argparse
import zipfile
from functools import lru_cache
from pathlib import Path

import helpers  # noqa: F401  (first: it quiets TensorFlow)

# isort: split
import keras
import numpy as np
from keras import layers

from helpers.data import ImageSet
from helpers.images import decode_image
from lesson import load
from records import FOLDER, Records

WHAT = "Four kinds of blocks at equal multiply-adds on CIFAR-10 (notebook 01): accuracy, time, activations"
PER_CLASS = {"train": 500, "test": 500}
TIMED = {"images": 32, "calls": 100}
TRAININGS = ((5, 0.003), (5, 0.001), (15, 0.003))  # passes, learning rate: the longest tells order from slowness
ROUNDS = 5  # of timings, the networks in turn, so that a busy moment does not fall on one of them alone


def normalised(x, filters, kernel_size):
    """A convolution and its BatchNorm."""
    settings = {"padding": "same", "use_bias": False, "kernel_initializer": "he_normal"}
    x = layers.Conv2D(filters=filters, kernel_size=kernel_size, **settings)(x)
    return layers.BatchNormalization(momentum=0.9)(x)


def vgg_block(x, filters):
    x = layers.ReLU()(normalised(x, filters, kernel_size=3))
    return layers.ReLU()(normalised(x, filters, kernel_size=3))


def resnet_block(x, filters):
    f = layers.ReLU()(normalised(x, filters, kernel_size=3))
    f = normalised(f, filters, kernel_size=3)
    if x.shape[-1] != filters:
        x = normalised(x, filters, kernel_size=1)  # the projection shortcut
    return layers.ReLU()(layers.Add()([x, f]))


def inception_block(x, filters):
    for _ in range(2):
        one = layers.ReLU()(normalised(x, filters // 4, kernel_size=1))
        three = layers.ReLU()(normalised(x, filters // 4, kernel_size=1))
        three = layers.ReLU()(normalised(three, filters // 2, kernel_size=3))
        five = layers.ReLU()(normalised(x, filters // 8, kernel_size=1))
        five = layers.ReLU()(normalised(five, filters // 8, kernel_size=5))
        pooled = layers.MaxPooling2D(pool_size=3, strides=1, padding="same")(x)
        pooled = layers.ReLU()(normalised(pooled, filters // 8, kernel_size=1))
        x = layers.Concatenate()([one, three, five, pooled])
    return x


def separable_block(x, filters):
    for _ in range(2):
        settings = {"padding": "same", "use_bias": False, "depthwise_initializer": "he_normal"}
        x = layers.DepthwiseConv2D(kernel_size=3, **settings)(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
        x = layers.ReLU()(normalised(x, filters, kernel_size=1))
    return x


RACERS = {
    "VGG": (vgg_block, 16),
    "ResNet": (resnet_block, 16),
    "Inception": (inception_block, 32),
    "separable": (separable_block, 47),
}


def race_network(name):
    """One of the RACERS for 32×32 colour images in ten classes: three stages of two blocks, wider as maps shrink."""
    make_block, width = RACERS[name]
    inputs = keras.Input((32, 32, 3))
    x = layers.Rescaling(scale=1 / 127.5, offset=-1)(inputs)
    x = layers.ReLU()(normalised(x, filters=16, kernel_size=3))
    for filters in (width, 2 * width, 4 * width):
        x = layers.MaxPooling2D(pool_size=2)(x)
        x = make_block(x, filters)
        x = make_block(x, filters)
    x = layers.GlobalAveragePooling2D()(x)
    outputs = layers.Dense(units=10, activation="softmax")(x)
    return keras.Model(inputs, outputs, name=name)


@lru_cache
def cifar10(path: str, part: str, per_class: int) -> ImageSet:
    """The first `per_class` images of each class, in the order of their file names."""
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if name.startswith(f"{part}/") and name.endswith(".jpg"))
        classes = tuple(sorted({name.split("/")[1] for name in names}))
        images, labels = [], []
        for label, class_name in enumerate(classes):
            for name in [name for name in names if name.split("/")[1] == class_name][:per_class]:
                images.append(decode_image(archive.read(name), name))
                labels.append(label)
    return ImageSet(np.stack(images), np.array(labels), classes, "CIFAR-10, JPEG", "see A. Krizhevsky, 2009")


class Race:
    """Compiled networks, one per kind of block, rate and number of passes, that take new weights with every seed."""

    def __init__(self, lesson, archive: str) -> None:
        self.lesson, self.archive, self.compiled = lesson, archive, {}

    def measure(self, name: str, rate: float, epochs: int, seed: int) -> dict:
        """Train one network and count and test it."""
        lesson = self.lesson
        train, test = (cifar10(self.archive, part, per_class) for part, per_class in PER_CLASS.items())
        if (name, rate, epochs) not in self.compiled:
            model = self.compiled[name, rate, epochs] = race_network(name)
            lesson.prepare(model, "Adam", rate, epochs * lesson.math.ceil(len(train) / 64))
        model = self.compiled[name, rate, epochs]
        lesson.start_again(model, lambda: race_network(name), seed)
        history = model.fit(train.images, train.labels, batch_size=64, epochs=epochs, verbose=0).history
        accuracy = model.evaluate(test.images, test.labels, batch_size=500, verbose=0)[1]
        counts = zip(("parameters", "activations", "multiply_adds"), lesson.totals(model), strict=True)
        return {
            "accuracy": round(100 * accuracy, 2),
            "training_accuracy": round(100 * history["accuracy"][-1], 2),
            "losses": [round(loss, 4) for loss in history["loss"]],
            **dict(counts),
        }


def time_of(lesson, name: str, images: int, calls: int) -> dict:
    """The fastest of many calls, which on a busy machine is nearest to what an idle one takes."""
    batch = lesson.tf.zeros((images, 32, 32, 3))
    return {"milliseconds": round(lesson.milliseconds(race_network(name), batch, calls), 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--cifar", default="", help="the archive of images; default: only the times, without accuracies"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of the runs")
    parser.add_argument("--epochs", type=int, help="passes over the training images; default: the recorded trainings")
    parser.add_argument("--rate", type=float, default=0.003, help="learning rate at the start, with --epochs")
    parser.add_argument("--record", default=FOLDER / "01_race.json", help="the file that takes the runs")
    given = parser.parse_args()
    if given.cifar and not Path(given.cifar).is_file():
        raise SystemExit(
            f"{given.cifar!r} is no archive of CIFAR-10: give its path, --cifar FILE or make full CIFAR=FILE"
        )
    lesson = load("01")
    records = Records(given.record, WHAT, __file__)
    for round_number in range(ROUNDS):
        for name in RACERS:
            told = {"experiment": "time", "network": name, **TIMED, "round": round_number}
            records.run(lambda: time_of(lesson, name, **TIMED), **told)  # noqa: B023
    keras.utils.clear_session()
    if not given.cifar:
        print("without CIFAR-10: --cifar names no archive; its runs are left out")
    running = Race(lesson, given.cifar)
    images = {part: 10 * per_class for part, per_class in PER_CLASS.items()}
    trainings = [(given.epochs, given.rate)] if given.epochs else TRAININGS
    for epochs, rate in trainings if given.cifar else ():
        for seed in given.seeds:
            for name in RACERS:
                settings = {"rate": rate, "epochs": epochs, "seed": seed}
                records.run(lambda: running.measure(name, **settings), network=name, **images, **settings)  # noqa: B023


if __name__ == "__main__":
    main()
