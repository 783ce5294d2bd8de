"""The recorded runs of notebook 04 that explain 96 %: the article's recipe on 60,000 digits, one change at a time.

    make full NB=04            or, with a copy of MNIST elsewhere than in Keras's cache:
    python experiments/mnist_explained.py --mnist FILE

Every change alone, then the repair step by step, each with three seeds, judged on the 10,000 official test digits
after every pass, as the article does it. Nothing is chosen by them: the changes and their values were written down
before the first run. The recipe itself, unchanged, is recorded in 04_full_mnist.json. Features of all 70,000 digits
are computed once per block (for block 3 they take 2.6 GB of disk). The heads are the lesson's own, from its tagged
cells. Each run goes into recorded/04_explained.json as it ends, trainings are kept epoch by epoch: interrupted, even
by kill -9, it goes on where it stopped. Wide heads take half an hour each on one core, the others a few minutes.
"""

import argparse
from functools import cached_property
from pathlib import Path

import helpers  # noqa: F401  (first: it quiets TensorFlow)

# isort: split
import keras
import numpy as np
import tensorflow as tf

import lesson
from helpers.data import ImageSet
from helpers.features import extract
from helpers.models import CUTS, parameter_counts, vgg16
from mnist_data import mnist_full, training_digits
from records import FOLDER, Records
from training import Batches, classifier_head, forget, name_of, sha256_of_weights, train_by_epochs

SEEDS = (0, 1, 2)
FILE = FOLDER / "04_explained.json"
PAGE = lesson.load("04")
RECIPE = {"block": 5, "size": 48, "standardised": False, "optimizer": "SGD", "rate": 0.05, "momentum": 0.0}
RECIPE |= {"falling": False, "hidden": [4096, 4096], "train": 60_000, "epochs": 10, "batch": 64}
LINEAR = {"standardised": True, "hidden": []}
SOFT = {"optimizer": "Adam", "rate": 1e-3, "falling": True}
RUNS = {  # the quick ones first
    "linear head": {"hidden": []},
    "features standardised, linear head": LINEAR,
    "features standardised, linear head, Adam, rate falling to 0": LINEAR | SOFT,
    "4,000 digits, 150 passes": {"train": 4_000, "epochs": 150},
    "features standardised": {"standardised": True},
    "rate falling to 0": {"falling": True},
    "momentum 0.9": {"momentum": 0.9},
    "Adam, rate 0.0003": {"optimizer": "Adam", "rate": 3e-4},
    "features standardised, linear head, Adam, rate falling to 0, block 4": LINEAR | SOFT | {"block": 4},
    "features standardised, linear head, Adam, rate falling to 0, block 3": LINEAR | SOFT | {"block": 3},
    "block 4": {"block": 4},
    "block 3": {"block": 3},
}


class Digits:
    """MNIST's training and test digits, read when first asked for, and their features after a block."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.features: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}

    @cached_property
    def both(self) -> tuple[ImageSet, ImageSet]:
        """All training digits, and the test digits."""
        splits = mnist_full(28, self.file, download_allowed=True)
        return training_digits(splits), splits.test

    def after(self, block: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Features after `block`, images scaled by 1/255 and enlarged as the article does it; kept on disk."""
        if (block, size) not in self.features:
            base = vgg16(CUTS[block - 1], size, "unit")
            self.features[block, size] = tuple(extract(base, PAGE.enlarged(part.images, size)) for part in self.both)
        return self.features[block, size]


def some(labels: np.ndarray, n: int, seed: int) -> np.ndarray:
    """The indices of `n` digits, as many of each class, drawn at random; of all where n is all."""
    if n == len(labels):
        return np.arange(n)
    random = np.random.default_rng(seed)
    classes = [np.flatnonzero(labels == digit) for digit in range(10)]
    return np.sort(np.concatenate([random.choice(members, n // 10, replace=False) for members in classes]))


def compiled_head(features: np.ndarray, settings: dict) -> keras.Model:
    """The head of a run. features: of training digits, from which a standardised head takes mean and deviation."""
    if settings["standardised"]:
        head = PAGE.standardised_head(features, settings["hidden"])
    else:
        head = classifier_head(features.shape[1:], 10, settings["hidden"], dropout=0.5)
    steps = settings["epochs"] * -(-settings["train"] // settings["batch"])
    schedule = PAGE.article_schedule(settings["rate"]) if settings["optimizer"] == "SGD" else settings["rate"]
    if settings["falling"]:
        schedule = keras.optimizers.schedules.CosineDecay(settings["rate"], steps)
    sgd = settings["optimizer"] == "SGD"
    optimizer = keras.optimizers.SGD(schedule, settings["momentum"]) if sgd else keras.optimizers.Adam(schedule)
    head.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return head


def trained(digits: Digits, seed: int, settings: dict) -> dict:
    """One training: its curves on training and test digits, and which test digits it gets wrong at the end."""
    train, test = digits.both
    features, new = digits.after(settings["block"], settings["size"])  # before the training sets its seed
    chosen = some(train.labels, settings["train"], seed)
    known, labels = (features, train.labels) if len(chosen) == len(train) else (features[chosen], train.labels[chosen])
    sample = known[:: max(1, len(known) // 10_000)]  # enough for mean and deviation

    def right(head: keras.Model) -> np.ndarray:
        return head.predict(new, batch_size=500, verbose=0).argmax(1) == test.labels

    def epoch(head: keras.Model, number: int) -> dict:
        batches = Batches(known, labels, settings["batch"], seed)
        batches.start(number)
        history = head.fit(batches, shuffle=False, verbose=0).history
        numbers = {key: round(values[0], 4) for key, values in history.items()}
        return numbers | {"test_accuracy": round(float(right(head).mean()), 4)}

    name = name_of("explained", seed, settings)
    head, curves = train_by_epochs(name, lambda: compiled_head(sample, settings), epoch, settings["epochs"], seed)
    wrong = np.flatnonzero(~right(head))
    return {
        **{"trainable": parameter_counts(head)[1], "weights": sha256_of_weights(head)},
        **{"test_accuracy": round(1 - len(wrong) / len(test), 4), "wrong": wrong.tolist()},
        **{"curves": curves, "seconds": round(sum(curves["seconds"]), 1)},
    }


def explain(records: Records, digits: Digits, seeds: tuple[int, ...], only: str = "") -> None:
    """Every run of RUNS whose name contains `only`; of each, all seeds before the next one begins."""
    for change, values in RUNS.items():
        for seed in seeds if only in change else ():
            settings = RECIPE | values
            records.run(lambda: trained(digits, seed, settings), change=change, seed=seed, **settings)  # noqa: B023
            forget(name_of("explained", seed, settings))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", default="", help="an mnist.npz; default: Keras's cache, else its download (11 MB)")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="how many seeds of each change (1 to 3)")
    parser.add_argument("--only", default="", help="only changes whose name contains this")
    parser.add_argument("--record", type=Path, default=FILE, help="the file that takes the runs")
    given = parser.parse_args()
    tf.config.experimental.enable_op_determinism()
    records = Records(given.record, "the article's recipe on 60,000 digits, one change at a time", __file__)
    explain(records, Digits(given.mnist), SEEDS[: given.seeds], given.only)


if __name__ == "__main__":
    main()
