"""The recorded runs of notebook 03: four strategies, small and large, on three data sets, three seeds.

    make full NB=03            or, with copies elsewhere:
    python notebooks/recorded/03_matrix.py --mnist FILE --cifar FOLDER

FOLDER holds train/<class>/*.jpg and test/<class>/*.jpg: CIFAR-10 (A. Krizhevsky, 2009) as JPEG files, which are
not pixel for pixel the original. Without it the runs on CIFAR-10 are left out, and that is said. Every run goes
into 03_matrix.json as it ends; interrupted, it goes on there. Delete the JSON to make all runs anew.
"""

import argparse
import time
from collections.abc import Callable

import helpers  # noqa: F401  (first: it quiets TensorFlow)

# isort: split
import keras
import numpy as np
import tensorflow as tf
from keras import layers
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from helpers.advice import advise
from helpers.data import ImageSet, Splits, balanced_subset, image_folder, photo_tiles
from helpers.features import extract
from helpers.models import classifier_head, parameter_counts, vgg16
from mnist_data import mnist_full
from records import FOLDER, Records
from training import computing_in, in_float32

SEEDS = (0, 1, 2)
SIZE, CUT, FROZEN_BLOCKS = 32, "block3_pool", 2
RATES = (1e-5, 1e-4)  # for pretrained layers
SCRATCH_RATES = (1e-3, 3e-3)
PER_CLASS = {"small": {"photo tiles": 10}, "large": {}}  # otherwise 50 and 500
PASSES = {"small": 10, "large": 3}  # over the training images, where pretrained layers are trained
SCRATCH_STEPS = 1500  # of 16 images, whatever the number of images
CURVE = (5, 15, 150)  # images per class of the curve, beside those of the matrix
FORGETTING_RATES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
FILE = FOLDER / "03_matrix.json"


def fitted_probe(base: keras.Model, part: ImageSet) -> keras.Sequential:
    """Flatten, unit scale, softmax, set by a logistic regression on the frozen features: the start of every head."""
    x = extract(base, part.images, cache=False).reshape(len(part), -1)
    scale = float(x.std())
    with threadpool_limits(1):
        probe = LogisticRegression(C=0.03, max_iter=500, tol=1e-2).fit(x / scale, part.labels)
    softmax = layers.Dense(len(part.class_names), activation="softmax", dtype="float32")
    scaling = layers.Rescaling(1 / scale, dtype="float32")
    head = keras.Sequential([keras.Input(base.output_shape[1:]), layers.Flatten(), scaling, softmax], name="head")
    coefficients, intercepts = probe.coef_, probe.intercept_
    if len(coefficients) == 1:  # two classes: one set of coefficients, for the second against the first
        coefficients, intercepts = np.stack([0 * coefficients[0], coefficients[0]]), np.array([0, intercepts[0]])
    softmax.set_weights([coefficients.T, intercepts])
    return head


def pretrained(part: ImageSet, frozen: int, rate: float, passes: int, precision: str) -> keras.Model:
    """VGG16 to CUT under a linear probe; blocks after `frozen` are trained with Adam (none where passes is 0)."""
    base = vgg16(CUT, SIZE)
    head = fitted_probe(base, part)
    if passes:
        with computing_in(precision):
            working = vgg16(CUT, SIZE)
        fixed = tuple(f"block{block}" for block in range(1, frozen + 1))
        for layer in working.layers:
            layer.trainable = not layer.name.startswith(fixed or "none")
        model = keras.Model(working.input, head(working.output))
        model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
        model.fit(part.images, part.labels, batch_size=32, epochs=passes, verbose=0)
        return in_float32(model)
    base.trainable = False
    return keras.Model(base.input, head(base.output))


def from_scratch(part: ImageSet, rate: float) -> keras.Model:
    """Three convolutions of our own with random weights; nothing of the teacher."""
    model = keras.Sequential([keras.Input((SIZE, SIZE, 3)), layers.Rescaling(1 / 127.5, -1)])
    for channels in (32, 64, 128):
        model.add(layers.Conv2D(channels, 3, padding="same", activation="relu"))
        model.add(layers.MaxPooling2D())
    model.add(classifier_head(model.output_shape[1:], len(part.class_names), dropout=0.3))
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    passes = max(1, round(SCRATCH_STEPS * 16 / len(part)))
    model.fit(part.images, part.labels, batch_size=16, epochs=passes, verbose=0)
    return model


def accuracy(model: keras.Model, part: ImageSet) -> float:
    said = model.predict(part.images, batch_size=32, verbose=0).argmax(1)
    return round(float((said == part.labels).mean()), 4)


def strategies(precision: str) -> dict[str, tuple[Callable[..., keras.Model], tuple[float, ...]]]:
    """Name -> how a network is trained on a part with a rate, and the rates to choose from."""
    return {
        "replace the output layer": (lambda part, rate, passes: pretrained(part, 0, rate, 0, precision), (0.0,)),
        "retrain later blocks": (
            lambda part, rate, passes: pretrained(part, FROZEN_BLOCKS, rate, passes, precision),
            RATES,
        ),
        "retrain everything": (lambda part, rate, passes: pretrained(part, 0, rate, passes, precision), RATES),
        "train from scratch": (lambda part, rate, passes: from_scratch(part, rate), SCRATCH_RATES),
    }


def measure(train: Callable[..., keras.Model], part: ImageSet, splits: Splits, rate: float, passes: int, seed: int):
    """One run: trained once, judged on validation and test images."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    start = time.perf_counter()
    model = train(part, rate, passes)
    seconds = round(time.perf_counter() - start, 1)
    total, trainable, frozen = parameter_counts(model)
    result = {"validation": accuracy(model, splits.validation), "test": accuracy(model, splits.test)}
    return {"trainable": trainable, "frozen": frozen, **result, "tested": len(splits.test), "seconds": seconds}


def matrix(records: Records, sets: dict[str, Splits], precision: str, seeds: tuple[int, ...]) -> None:
    """Every strategy, data set and size; rates are chosen on the validation images of seed 0, then kept."""
    for seed in seeds:
        for name, splits in sets.items():
            for size in ("small", "large"):
                largest = int(np.bincount(splits.train.labels).min())
                per_class = min(PER_CLASS[size].get(name, {"small": 50, "large": 500}[size]), largest)
                part = balanced_subset(splits.train, per_class, seed)
                for strategy, (train, rates) in strategies(precision).items():
                    settings = {"experiment": "matrix", "data": name, "size": size, "strategy": strategy}
                    settings["precision"] = precision if strategy.startswith("retrain") else "float32"
                    if seed != SEEDS[0]:
                        tried = records.find(**settings, seed=SEEDS[0])
                        rates = (max(tried, key=lambda run: run["validation"])["rate"],)
                    for rate in rates:
                        passes = PASSES[size] if strategy.startswith("retrain") else 0
                        settings |= {"rate": rate, "seed": seed, "n": len(part), "passes": passes}
                        records.run(lambda: measure(train, part, splits, rate, passes, seed), **settings)  # noqa: B023


def curve(records: Records, sets: dict[str, Splits], precision: str, seeds: tuple[int, ...]) -> None:
    """Accuracy against the number of training images: feature extraction and training from scratch."""
    for seed in seeds:
        for name, splits in sets.items():
            for per_class in CURVE:
                if per_class > np.bincount(splits.train.labels).min():
                    continue
                part = balanced_subset(splits.train, per_class, seed)
                for strategy in ("replace the output layer", "train from scratch"):
                    train, rates = strategies(precision)[strategy]
                    settings = {"experiment": "how much data", "data": name, "strategy": strategy, "n": len(part)}
                    settings |= {"rate": rates[0], "seed": seed}
                    records.run(lambda: measure(train, part, splits, rates[0], 0, seed), **settings)  # noqa: B023


def forgetting(records: Records, sets: dict[str, Splits], precision: str, seeds: tuple[int, ...]) -> None:
    """Everything retrained on 500 digits at each rate; then, how well its block 3 still serves photo tiles."""
    digits, tiles = sets["MNIST"], sets["photo tiles"]
    for seed in seeds:
        part = balanced_subset(digits.train, 50, seed)
        for rate in FORGETTING_RATES:

            def run() -> dict:
                keras.utils.clear_session()
                keras.utils.set_random_seed(seed)  # noqa: B023
                model = pretrained(part, 0, rate, PASSES["small"], precision)  # noqa: B023
                result = {"validation": accuracy(model, digits.validation), "test": accuracy(model, digits.test)}
                base = keras.Model(model.input, model.get_layer(CUT).output)
                photographs = keras.Model(base.input, fitted_probe(base, tiles.train)(base.output))
                return result | {"tiles_test": accuracy(photographs, tiles.test)}

            settings = {"experiment": "forgetting", "data": "MNIST", "strategy": "retrain everything", "rate": rate}
            settings["precision"] = precision
            records.run(run, **settings, seed=seed, n=len(part), passes=PASSES["small"])


def advice(records: Records, sets: dict[str, Splits]) -> None:
    """What helpers.advice says of each data set from its training images alone."""
    for name, splits in sets.items():

        def ask() -> dict:
            said = advise(splits.train.images, splits.train.labels, SIZE)  # noqa: B023
            return {"scenario": said.scenario, "cut": said.cut, "sure": said.sure, "table": said.table}

        records.run(ask, experiment="advice", data=name, n=len(splits.train))


def some(part: ImageSet, per_class: int) -> ImageSet:
    """At most so many images of each class, always the same ones."""
    return balanced_subset(part, min(per_class, int(np.bincount(part.labels).min())), seed=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", default="", help="an mnist.npz; default: Keras's cache, else its download (11 MB)")
    parser.add_argument("--cifar", default="", help="folder with train/ and test/; default: without CIFAR-10")
    parser.add_argument(
        "--precision", default="mixed_bfloat16", choices=("float32", "mixed_bfloat16"), help="of training"
    )
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="how many seeds (1 to 3)")
    given = parser.parse_args()
    tf.config.experimental.enable_op_determinism()
    seeds = SEEDS[: given.seeds]
    records = Records(FILE, f"four transfer strategies on VGG16 up to {CUT}, {SIZE} pixels", __file__)
    sets = {"photo tiles": photo_tiles(SIZE)}
    if given.cifar:
        folder = image_folder(given.cifar, SIZE, max_per_class=700)
        sets["CIFAR-10"] = Splits(folder.train, some(folder.validation, 50), some(folder.test, 200))
    else:
        print("without CIFAR-10: --cifar names no folder")
    digits = mnist_full(SIZE, given.mnist, download_allowed=True)
    sets["MNIST"] = Splits(digits.train, some(digits.validation, 50), some(digits.test, 200))
    for name, splits in sets.items():
        print(name, [len(part) for part in splits], flush=True)
    matrix(records, sets, given.precision, seeds[:1])
    forgetting(records, sets, given.precision, seeds[:1])
    curve(records, sets, given.precision, seeds)
    matrix(records, sets, given.precision, seeds)
    forgetting(records, sets, given.precision, seeds)
    advice(records, sets)


if __name__ == "__main__":
    main()
