"""The recorded runs of notebook 04 on why the article's recipe ends low: one change at a time.

    make full NB=04            or, with a copy of MNIST elsewhere than in Keras's cache:
    python experiments/mnist_one_change.py --mnist FILE

Three experiments on 4,000 or 500 of MNIST's training digits, judged on 2,000 other ones; the official test digits
play no part. The heads, the augmentation and the linear classifier are the lesson's own, from its tagged cells. Every
run goes into recorded/04_one_change.json as it ends; interrupted, it goes on there. What is recorded is not run
again; --record names another file: about a quarter of an hour on two cores.
"""

import argparse
from functools import cached_property
from pathlib import Path

import helpers  # noqa: F401  (first: it quiets TensorFlow)

# isort: split
import keras
import numpy as np
import tensorflow as tf
from keras import layers

import lesson
from helpers.data import ImageSet, Splits, balanced_subset
from helpers.features import extract
from helpers.images import resize
from helpers.models import CUTS, vgg16
from mnist_data import mnist_full
from records import FOLDER, Records
from training import classifier_head

SEEDS = (0, 1, 2)
PAGE = lesson.load("04")
RECIPE = {"block": 5, "size": 48, "scaling": "unit", "optimizer": "SGD", "rate": 0.05, "hidden": (4096, 4096)}
RECIPE |= {"standardised": False, "train": 4000, "epochs": 10}
CHANGES = {
    "nothing: the article's recipe": {},
    "block 4 instead of 5": {"block": 4},
    "block 3 instead of 5": {"block": 3},
    "32 x 32 pixels": {"size": 32},
    "VGG16's own preprocessing": {"scaling": "imagenet"},
    "features standardised": {"standardised": True},
    "VGG16's own preprocessing, features standardised": {"scaling": "imagenet", "standardised": True},
    "learning rate 0.01": {"rate": 0.01},
    "learning rate 0.2": {"rate": 0.2},
    "Adam, learning rate 0.0003": {"optimizer": "Adam", "rate": 3e-4},
    "one hidden layer of 256": {"hidden": (256,)},
    "no hidden layer": {"hidden": ()},
    "400 digits": {"train": 400},
    "1,600 digits": {"train": 1600},
    "all of it: block 3, 32 pixels, VGG16's own preprocessing, standardised, no hidden layer, Adam": {
        **{"block": 3, "size": 32, "scaling": "imagenet", "standardised": True},
        **{"hidden": (), "optimizer": "Adam", "rate": 1e-3},
    },
}
SOME = 500  # digits for the scale of the input and for augmentation
STRENGTH = {"degrees": 10, "pixels": 2}  # of augmentation
SCALES = {"1": 1.0, "1/16": 1 / 16, "1/255": 1 / 255, "1/1000": 1 / 1000}
FILE = FOLDER / "04_one_change.json"


class Digits:
    """Training and validation digits, read when first asked for, and their features for a block, size and scaling."""

    def __init__(self, file: str) -> None:
        self.file = file

    @cached_property
    def splits(self) -> Splits:
        return mnist_full(28, self.file, download_allowed=True)

    @cached_property
    def train(self) -> ImageSet:
        return balanced_subset(self.splits.train, 400, 0)

    @cached_property
    def some(self) -> ImageSet:
        return balanced_subset(self.train, SOME // 10, 0)

    @cached_property
    def validation(self) -> ImageSet:
        return balanced_subset(self.splits.validation, 200, 0)

    def features(self, block: int, size: int, scaling: str) -> tuple[np.ndarray, np.ndarray]:
        base = vgg16(CUTS[block - 1], size, scaling)
        return tuple(extract(base, PAGE.enlarged(part.images, size)) for part in (self.train, self.validation))


def head_accuracy(digits: Digits, seed: int, settings: dict) -> dict:
    """One head trained with `settings`: its accuracy on training digits (of the last pass) and on validation."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    known, new = digits.features(settings["block"], settings["size"], settings["scaling"])
    chosen = np.concatenate(
        [np.flatnonzero(digits.train.labels == digit)[: settings["train"] // 10] for digit in range(10)]
    )
    known, labels = known[np.sort(chosen)], digits.train.labels[np.sort(chosen)]
    if settings["standardised"]:
        head = PAGE.standardised_head(known, settings["hidden"])
    else:
        head = classifier_head(known.shape[1:], 10, settings["hidden"], dropout=0.5)
    rate = settings["rate"]
    if settings["optimizer"] == "SGD":
        optimizer = keras.optimizers.SGD(PAGE.article_schedule(rate))
    else:
        optimizer = keras.optimizers.Adam(rate)
    head.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    history = head.fit(known, labels, batch_size=64, epochs=settings["epochs"], verbose=0).history
    right = head.predict(new, verbose=0).argmax(1) == digits.validation.labels
    return {"training": round(history["accuracy"][-1], 4), "validation": round(float(right.mean()), 4)}


def one_change(records: Records, digits: Digits, seeds: tuple[int, ...]) -> None:
    """The recipe itself with every seed, which shows what is chance; its changes with `seeds`."""
    recipe = next(iter(CHANGES))
    for change, seed in [*((recipe, seed) for seed in SEEDS), *((c, s) for s in seeds for c in CHANGES)]:
        settings = RECIPE | CHANGES[change]
        told = {"experiment": "one change", "change": change, "seed": seed, **settings}
        records.run(lambda: head_accuracy(digits, seed, settings), **told)  # noqa: B023


# --- what the scale of the input does --------------------------------------------------------------


def scaled_features(part: ImageSet, scale: float) -> np.ndarray:
    """Block 5 at 32 x 32 pixels of VGG16's own preprocessing times `scale`, (n, 512)."""
    base = vgg16("block5_pool", 32)
    images = base.get_layer("imagenet_mean").output
    after = keras.Model(images, base.output)
    scaled = layers.Rescaling(scale)(base.get_layer("imagenet_mean").output)
    model = keras.Model(base.input, after(scaled), name="vgg16_scaled")
    return extract(model, resize(part.images, 32)).reshape(len(part), -1)


def scales(records: Records, digits: Digits) -> None:
    """A linear classifier on block 5, and how many of its 512 numbers take part, by the scale of the input."""
    for name, scale in SCALES.items():

        def measure() -> dict:
            known, new = scaled_features(digits.some, scale), scaled_features(digits.validation, scale)  # noqa: B023
            right = PAGE.linear_probe(known, digits.some.labels, new, digits.validation.labels)
            return {
                "validation": round(right, 4),
                "zeros": round(float(np.mean(known == 0)), 3),
                "taking_part": int(np.sum(known.std(axis=0) > 1e-6)),
            }

        records.run(measure, experiment="scale of the input", scale=name, train=SOME, block=5, size=32)


# --- augmentation ----------------------------------------------------------------------------------


def augmentation(records: Records, digits: Digits, seeds: tuple[int, ...], passes: int = 30) -> None:
    """A softmax layer on block 3 of 500 digits: as they are, moved anew in every pass, moved once and kept."""
    for seed in seeds:
        for way in ("as they are", "moved anew in every pass", "moved once, then kept"):

            def measure() -> dict:
                keras.utils.clear_session()
                keras.utils.set_random_seed(seed)  # noqa: B023
                random = np.random.default_rng(seed)  # noqa: B023
                base = vgg16("block3_pool", 32)
                images, new = resize(digits.some.images, 32), resize(digits.validation.images, 32)
                seen = images if way == "as they are" else PAGE.moved(images, random, **STRENGTH)  # noqa: B023
                known = extract(base, seen, cache=False)
                head = PAGE.standardised_head(known)
                head.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
                for number in range(passes):
                    if number and way == "moved anew in every pass":  # noqa: B023
                        known = extract(base, PAGE.moved(images, random, **STRENGTH), cache=False)
                    head.fit(known, digits.some.labels, batch_size=32, verbose=0)
                said = head.predict(extract(base, new), verbose=0).argmax(1)
                return {"validation": round(float((said == digits.validation.labels).mean()), 4)}

            settings = {"experiment": "augmentation", "way": way, "seed": seed, "train": SOME, "epochs": passes}
            settings |= {"block": 3, "size": 32} | ({} if way == "as they are" else STRENGTH)
            records.run(measure, **settings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", default="", help="an mnist.npz; default: Keras's cache, else its download (11 MB)")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds for each change (1 to 3)")
    parser.add_argument("--record", type=Path, default=FILE, help="the file that takes the runs")
    given = parser.parse_args()
    tf.config.experimental.enable_op_determinism()
    records = Records(given.record, "the article's recipe on 4,000 digits, one change at a time", __file__)
    digits, seeds = Digits(given.mnist), SEEDS[: given.seeds]
    scales(records, digits)
    augmentation(records, digits, SEEDS)
    one_change(records, digits, seeds)


if __name__ == "__main__":
    main()
