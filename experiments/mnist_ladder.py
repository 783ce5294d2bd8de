"""The recorded runs of notebook 04's ladder: eight ways to read digits, from 50 to 60,000 training digits.

    make full NB=04            or, with a copy of MNIST elsewhere than in Keras's cache:
    python experiments/mnist_ladder.py --mnist FILE [--digits 50 500]

Rows: a linear head on pixels, on the features of a random VGG16, of the pretrained one, and on those of moved copies
as well; a small network from scratch, and the same with augmentation and BatchNorm; fine-tuned; an ensemble of three.
For each row and number of digits, every recipe listed here is tried with seed 0 and judged on 5,000 validation digits
(runs with "role": "try"); the one that is best there is trained with three seeds and judged on the 10,000 official
test digits ("role": "test"). With 60,000 digits the tries see 55,000 of them. The lesson's own functions are used
where it has them. Each run goes into recorded/04_ladder.json as it ends, trainings are kept epoch by epoch:
interrupted, even by kill -9, it goes on where it stopped. Minutes up to 500 digits, hours for 60,000.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import helpers  # noqa: F401  (first: it quiets TensorFlow)

# isort: split
import keras
import numpy as np
import tensorflow as tf
from keras import layers

import lesson
from helpers.assets import atomic_path
from helpers.data import ImageSet, Splits, balanced_subset
from helpers.features import cache_folder, extract
from helpers.images import resize
from helpers.models import parameter_counts, vgg16
from mnist_data import mnist_full, training_digits
from records import FOLDER, Records
from training import Batches, forget, name_of, train_by_epochs

SEEDS = (0, 1, 2)
COUNTS = (50, 500, 4_000, 60_000)
FILE = FOLDER / "04_ladder.json"
PAGE = lesson.load("04")
PASSES = {50: 100, 500: 60, 4_000: 30, 55_000: 15, 60_000: 15}
COPIES = {50: 60, 500: 30, 4_000: 9, 55_000: 3, 60_000: 3}  # of each digit, beside itself
STRENGTH = {"degrees": 10, "pixels": 1.5, "stretch": 0.1}  # of augmentation, for 28 x 28 pixels
SIZE = 32  # of the frozen networks' images; the others take 28 x 28


class Digits:
    """MNIST, read when first asked for: 55,000 to train on, 5,000 to choose by, 10,000 to test."""

    def __init__(self, file: str) -> None:
        self.file = file

    @cached_property
    def splits(self) -> Splits:
        return mnist_full(28, self.file, download_allowed=True)

    def part(self, n: int, seed: int) -> ImageSet:
        """`n` training digits, as many of each class, drawn at random; 55,000 or 60,000: all of them."""
        train = self.splits.train
        if n > len(train):
            return training_digits(self.splits)
        if n == len(train):
            return train
        return balanced_subset(train, n // 10, seed)


# --- rows --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One way to read digits. inputs(images, seed): what its network takes; build(inputs, settings): the network.

    tries: the settings to choose from. copies: whether moved copies are trained on as well. moving: whether every
    batch is moved anew. head: the row whose network on frozen features it starts from.
    """

    inputs: Callable[[np.ndarray, int], np.ndarray]
    build: Callable[..., keras.Model]
    tries: tuple[dict, ...]
    copies: bool = False
    moving: bool = False
    head: str = ""


def pixels(images: np.ndarray, seed: int) -> np.ndarray:
    return images[..., :1]


def frozen(weights: str | None) -> Callable[[np.ndarray, int], np.ndarray]:
    def features(images: np.ndarray, seed: int) -> np.ndarray:
        keras.utils.set_random_seed(seed)  # decides the weights of a random network
        return extract(vgg16("block3_pool", SIZE, weights=weights), resize(images, SIZE))

    return features


def linear(inputs: np.ndarray, settings: dict) -> keras.Model:
    """The lesson's head; mean and standard deviation come from a sample of the inputs."""
    return PAGE.standardised_head(inputs[:: max(1, len(inputs) // 10_000)], dropout=settings["dropout"])


def small(inputs: np.ndarray, settings: dict) -> keras.Model:
    """Four convolutions of our own and one wide layer, about 420,000 numbers."""
    model = keras.Sequential([keras.Input(inputs.shape[1:]), layers.Rescaling(1 / 255)])
    for channels in (32, 32, 64, 64):
        model.add(layers.Conv2D(channels, 3, padding="same", use_bias=not settings["normalised"]))
        if settings["normalised"]:
            model.add(layers.BatchNormalization())
        model.add(layers.ReLU())
        if len([layer for layer in model.layers if isinstance(layer, layers.Conv2D)]) % 2 == 0:
            model.add(layers.MaxPooling2D())
    model.add(layers.Flatten())
    model.add(layers.Dense(128, activation="relu"))
    model.add(layers.Dropout(settings["dropout"]))
    model.add(layers.Dense(10, activation="softmax"))
    return model


def tuned(inputs: np.ndarray, settings: dict, head: keras.Model) -> keras.Model:
    """VGG16 up to block 3 under a head trained on its features, block 1 frozen."""
    base = vgg16("block3_pool", SIZE)
    for layer in base.layers:
        layer.trainable = not layer.name.startswith("block1")
    return keras.Model(base.input, head(base.output))


def large(images: np.ndarray, seed: int) -> np.ndarray:
    return resize(images, SIZE)


HEADS = tuple({"rate": rate, "dropout": dropout} for rate in (3e-4, 1e-3) for dropout in (0.0, 0.5))
PLAIN = tuple({"rate": rate, "dropout": 0.5, "normalised": False} for rate in (3e-4, 1e-3, 3e-3))
NORMALISED = tuple({"rate": rate, "dropout": 0.5, "normalised": True} for rate in (1e-3, 3e-3))
ROWS = {
    "pixels": Row(pixels, linear, HEADS),
    "random VGG16": Row(frozen(None), linear, HEADS),
    "pretrained VGG16": Row(frozen("imagenet"), linear, HEADS),
    "pretrained VGG16, moved copies": Row(frozen("imagenet"), linear, HEADS, copies=True),
    "small network": Row(pixels, small, PLAIN),
    "small network, augmentation, BatchNorm": Row(pixels, small, NORMALISED, moving=True),
    "fine-tuned": Row(large, tuned, ({"rate": 1e-4}, {"rate": 3e-4}), moving=True, head="pretrained VGG16"),
}


# --- one training ------------------------------------------------------------------------------------


def trained(digits: Digits, name: str, n: int, seed: int, settings: dict, head: keras.Model | None) -> keras.Model:
    """The network of row `name` trained on `n` digits: Adam, whose rate rises for a tenth of the steps, then falls."""
    row, part = ROWS[name], digits.part(n, seed)
    images, labels = part.images, part.labels
    if row.copies:
        random = np.random.default_rng(seed)
        images = np.concatenate([images, *(PAGE.moved(images, random, **STRENGTH) for _ in range(COPIES[n]))])
        labels = np.tile(labels, 1 + COPIES[n])
    inputs = row.inputs(images, seed)
    passes, batch = (PASSES[n] if not row.copies else max(3, PASSES[n] // 3)), 32 if n < 4_000 else 64
    steps = passes * -(-len(inputs) // batch)

    def build() -> keras.Model:
        model = row.build(inputs, settings, head) if row.head else row.build(inputs, settings)
        warm, rate = steps // 10, settings["rate"]
        schedule = keras.optimizers.schedules.CosineDecay(0.0, steps - warm, warmup_target=rate, warmup_steps=warm)
        model.compile(keras.optimizers.Adam(schedule), "sparse_categorical_crossentropy", metrics=["accuracy"])
        return model

    def change(batch_of_images: np.ndarray, random: np.random.Generator) -> np.ndarray:
        if batch_of_images.shape[-1] == 1:
            return PAGE.moved(np.repeat(batch_of_images, 3, axis=-1), random, **STRENGTH)[..., :1]
        return PAGE.moved(batch_of_images, random, **STRENGTH)

    def epoch(model: keras.Model, number: int) -> dict:
        batches = Batches(inputs, labels, batch, seed, change if row.moving else None)
        batches.start(number)
        history = model.fit(batches, shuffle=False, verbose=0).history
        return {key: round(values[0], 4) for key, values in history.items()}

    return train_by_epochs(name_of("ladder", name, n, seed, settings), build, epoch, passes, seed)[0]


def probabilities(digits: Digits, name: str, n: int, seed: int, settings: dict, part: ImageSet) -> tuple:
    """What row `name` says of the digits in `part`, (their number, 10), and how many numbers were trained; kept."""
    file = cache_folder() / "training" / f"{name_of('ladder', name, n, seed, settings, len(part))}.npz"
    if not file.exists():
        head = None
        if ROWS[name].head:
            first = ROWS[name].head
            head = trained(digits, first, n, seed, ROWS[first].tries[-1], None)
        model = trained(digits, name, n, seed, settings, head)
        if head:
            forget(name_of("ladder", first, n, seed, ROWS[first].tries[-1]))
        inputs = ROWS[name].inputs(part.images, seed)
        said = model.predict(inputs, batch_size=250, verbose=0)
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(file) as temporary, open(temporary, "wb") as opened:
            np.savez(opened, said=said, trainable=parameter_counts(model)[1])
        forget(name_of("ladder", name, n, seed, settings))
    with np.load(file) as kept:
        return kept["said"], int(kept["trainable"])


def judged(said: np.ndarray, labels: np.ndarray, name: str) -> dict:
    """Accuracy, and which digits are wrong, so that two ways can be compared digit by digit."""
    wrong = np.flatnonzero(said.argmax(1) != labels)
    return {f"{name}_accuracy": round(1 - len(wrong) / len(labels), 4), "wrong": wrong.tolist()}


# --- the ladder --------------------------------------------------------------------------------------


def step(records: Records, digits: Digits, name: str, n: int, seeds: tuple[int, ...]) -> tuple[float, dict]:
    """Row `name` with `n` digits: all its recipes tried, the best one tested; (its validation accuracy, its recipe)."""
    few = min(n, 55_000)
    tries = []
    for settings in ROWS[name].tries:

        def attempt() -> dict:
            validation = digits.splits[1]
            said, _ = probabilities(digits, name, few, 0, settings, validation)  # noqa: B023
            return judged(said, validation.labels, "validation")

        run = records.run(attempt, role="try", row=name, digits=n, trained_on=few, seed=0, **settings)
        tries.append((run["validation_accuracy"], settings))
    accuracy, settings = max(tries, key=lambda pair: pair[0])
    for seed in seeds:

        def final() -> dict:
            test = digits.splits[2]
            said, trainable = probabilities(digits, name, n, seed, settings, test)  # noqa: B023
            return {"trainable": trainable, **judged(said, test.labels, "test")}

        records.run(final, role="test", row=name, digits=n, trained_on=n, seed=seed, **settings)
    return accuracy, settings


def ensemble(records: Records, digits: Digits, name: str, n: int, settings: dict) -> None:
    """The mean of the probabilities of row `name` with three seeds."""

    def measure() -> dict:
        test = digits.splits[2]
        said = [probabilities(digits, name, n, seed, settings, test)[0] for seed in SEEDS]
        return judged(np.mean(said, axis=0), test.labels, "test")

    records.run(measure, role="test", row="ensemble of three", digits=n, trained_on=n, of=name, **settings)


def climb(records: Records, digits: Digits, counts: tuple[int, ...], rows: tuple[str, ...], seeds: tuple) -> None:
    """All rows for each number of digits; then three seeds of the row that is best on validation digits together."""
    for n in counts:
        reached = {name: step(records, digits, name, n, seeds) for name in rows}
        best = max(reached, key=lambda name: reached[name][0])
        if len(seeds) == len(SEEDS) and len(rows) == len(ROWS):
            ensemble(records, digits, best, n, reached[best][1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", default="", help="an mnist.npz; default: Keras's cache, else its download (11 MB)")
    parser.add_argument("--digits", type=int, nargs="+", default=COUNTS, choices=COUNTS, help="numbers of digits")
    parser.add_argument("--rows", nargs="+", default=tuple(ROWS), choices=ROWS, help="which rows; default: all")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="how many seeds of each (1 to 3)")
    parser.add_argument("--record", type=Path, default=FILE, help="the file that takes the runs")
    given = parser.parse_args()
    tf.config.experimental.enable_op_determinism()
    records = Records(given.record, "eight ways to read digits, from 50 to 60,000 training digits", __file__)
    climb(records, Digits(given.mnist), tuple(given.digits), tuple(given.rows), SEEDS[: given.seeds])


if __name__ == "__main__":
    main()
