"""The recorded runs of notebook 04 on all of MNIST: the article's recipe, a better frozen network, fine-tuning.

    make full NB=04            or, with a copy of MNIST elsewhere than in Keras's cache:
    python experiments/mnist_full.py --mnist FILE

The networks are the lesson's own, from its tagged cells. Each run goes into recorded/04_full_mnist.json as it ends;
trainings are kept epoch by epoch. Interrupted, even by kill -9, it goes on where it stopped and ends with the same
numbers. What is recorded is not run again; --record names another file (about two hours on two cores). Fine-tuning
computes in bfloat16, as it was recorded: three times as fast on processors with AVX512-BF16 or AMX, slower than
--precision float32 on all others. Runs marked "superseded" come from earlier recipes; they are kept, but not made any
more.
"""

import argparse
import base64
from functools import cached_property
from pathlib import Path

import helpers  # noqa: F401  (first: it quiets TensorFlow)

# isort: split
import cv2
import keras
import numpy as np
import tensorflow as tf
from sklearn.metrics import confusion_matrix

import lesson
from helpers.data import ImageSet, Splits
from helpers.features import extract
from helpers.images import resize
from helpers.models import parameter_counts, vgg16
from mnist_data import mnist_full, training_digits
from records import FOLDER, Records
from training import Batches, computing_in, forget, in_float32, sha256_of_weights, train_by_epochs

SEEDS = (0, 1, 2)
FILE = FOLDER / "04_full_mnist.json"
PAGE = lesson.load("04")


class Digits:
    """All of MNIST at 28 x 28, and what frozen networks say of it, read and computed when first asked for.

    images, labels: the 60,000 training digits, of which the first `choosing` are trained on and the others
    validate where something is chosen. Features stay on disk (helpers.features.extract).
    """

    training, choosing = 60_000, 55_000

    def __init__(self, file: str) -> None:
        self.file = file
        self.after_block3: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    @cached_property
    def splits(self) -> Splits:
        return mnist_full(28, self.file, download_allowed=True)

    @cached_property
    def known(self) -> ImageSet:
        return training_digits(self.splits)

    @property
    def images(self) -> np.ndarray:
        return self.known.images

    @property
    def labels(self) -> np.ndarray:
        return self.known.labels

    @property
    def test(self) -> ImageSet:
        return self.splits.test

    def block3(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Features after block 3 at size x size pixels, (n, size / 8, size / 8, 256): training and test digits."""
        if size not in self.after_block3:
            base, both = vgg16("block3_pool", size), (self.images, self.test.images)
            self.after_block3[size] = tuple(extract(base, resize(part, size)) for part in both)
        return self.after_block3[size]

    @cached_property
    def block5(self) -> tuple[np.ndarray, np.ndarray]:
        """The article's base: after block 5 at 48 x 48 pixels, scaled by 1/255, (n, 1, 1, 512)."""
        base = PAGE.article_model().layers[0]
        return tuple(extract(base, PAGE.enlarged(part)) for part in (self.images, self.test.images))


def compiled(model: keras.Model, optimizer: keras.optimizers.Optimizer) -> keras.Model:
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def score(model: keras.Model, inputs: np.ndarray, labels: np.ndarray) -> dict:
    """Loss, accuracy and, for the figures, the probabilities of the images, in float32."""
    probabilities = np.concatenate(
        [model.predict_on_batch(inputs[start : start + 32]) for start in range(0, len(inputs), 32)]
    ).astype(np.float32)
    own = probabilities[np.arange(len(labels)), labels]
    loss = float(-np.log(np.maximum(own, 1e-7)).mean())
    return {"loss": round(loss, 4), "right": int((probabilities.argmax(1) == labels).sum()), "p": probabilities}


def summary(result: dict, labels: np.ndarray, images: np.ndarray | None = None) -> dict:
    """What of a test is recorded: accuracy, loss, confusion, calibration and, with `images`, the mistakes."""
    p = result.pop("p")
    said, sure = p.argmax(1), p.max(1)
    bins = np.minimum((sure * 10).astype(int), 9)
    calibration = [
        [
            int((bins == b).sum()),
            round(float(sure[bins == b].mean()), 4),
            round(float((said == labels)[bins == b].mean()), 4),
        ]
        for b in range(10)
        if (bins == b).any()
    ]
    wrong = np.flatnonzero(said != labels)
    wrong = wrong[np.argsort(-sure[wrong])]
    mistakes = [
        {"index": int(i), "is": int(labels[i]), "said": int(said[i]), "p": round(float(sure[i]), 3)}
        | {"p_right": round(float(p[i, labels[i]]), 3)}
        | ({"png": base64.b64encode(cv2.imencode(".png", images[i, ..., 0])[1]).decode()} if images is not None else {})
        for i in wrong[: 60 if images is not None else 0]
    ]
    return {
        "test_accuracy": round(result["right"] / len(labels), 4),
        "test_loss": result["loss"],
        "confusion": confusion_matrix(labels, said).tolist(),
        "calibration": calibration,
        **({"mistakes": mistakes} if mistakes else {}),
    }


# --- the article's recipe, to the letter ---------------------------------------------------------


def article(records: Records, digits: Digits, seed: int) -> None:
    """60,000 digits, SGD 0.05 with decay 1e-5, batches of 64, 10 epochs; curves on the 10,000 test digits."""

    def build() -> keras.Model:
        head = PAGE.head_of(PAGE.article_model())
        return compiled(head, keras.optimizers.SGD(PAGE.article_schedule(0.05)))

    def epoch(head: keras.Model, number: int) -> dict:
        known, test = digits.block5
        judged = (test, digits.test.labels)
        history = head.fit(known, digits.labels, batch_size=64, verbose=0, validation_data=judged).history
        return {key: round(values[0], 4) for key, values in history.items()}

    def measure() -> dict:
        test = digits.block5[1]  # computed here, before the training sets its seed
        head, curves = train_by_epochs(f"article_{seed}", build, epoch, 10, seed)
        parameters = parameter_counts(PAGE.article_model())[0]
        result = summary(score(head, test, digits.test.labels), digits.test.labels)
        final = {"parameters": parameters, "trainable": parameter_counts(head)[1], "weights": sha256_of_weights(head)}
        return final | result | {"curves": curves, "seconds": round(sum(curves["seconds"]), 1)}

    records.run(measure, run="article's recipe", seed=seed, train=60_000, epochs=10, precision="float32")
    forget(f"article_{seed}")


# --- a better frozen network ---------------------------------------------------------------------


def trained_head(digits: Digits, size: int, hidden: int, n: int, seed: int) -> tuple[keras.Model, dict]:
    """A head on the features of the first `n` training digits, 12 passes with Adam: (the head, its curves)."""
    epochs, steps = 12, -(-n // 128)
    known = digits.block3(size)[0]  # not in build(): what is built there depends on how much was drawn at random before

    def build() -> keras.Model:
        sample = np.random.default_rng(0).choice(digits.choosing, min(10_000, digits.choosing), replace=False)
        head = PAGE.standardised_head(known[np.sort(sample)], (hidden,) if hidden else ())
        return compiled(head, keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(1e-3, epochs * steps)))

    def epoch(head: keras.Model, number: int) -> dict:
        batches = Batches(known[:n], digits.labels[:n], 128, seed)
        batches.start(number)
        history = head.fit(batches, shuffle=False, verbose=0).history
        return {key: round(values[0], 4) for key, values in history.items()}

    return train_by_epochs(f"frozen_{size}_{hidden}_{n}_{seed}", build, epoch, epochs, seed)


def frozen(records: Records, digits: Digits, hidden: int, n: int, seed: int) -> dict:
    """Cut at block 3, 32 x 32 pixels: judged on validation digits or, with all 60,000, on the test digits."""

    def measure() -> dict:
        head, curves = trained_head(digits, 32, hidden, n, seed)
        known, test = digits.block3(32)
        if n == digits.training:
            result = summary(score(head, test, digits.test.labels), digits.test.labels, digits.test.images)
        else:
            seen = score(head, known[n:], digits.labels[n:])
            result = {"validation_accuracy": round(seen["right"] / len(digits.labels[n:]), 4)}
        final = {"trainable": parameter_counts(head)[1], "weights": sha256_of_weights(head)}
        return final | result | {"curves": curves, "seconds": round(sum(curves["seconds"]), 1)}

    settings = {"run": "frozen, block 3", "hidden": hidden, "seed": seed, "train": n, "epochs": 12}
    record = records.run(measure, **settings, precision="float32")
    forget(f"frozen_32_{hidden}_{n}_{seed}")
    return record


# --- fine-tuned ----------------------------------------------------------------------------------

SIZE, FROZEN_BLOCKS, BATCH = 28, 1, 64  # edges need no correction; without them a step takes half the time


def turned(images: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Augmentation: up to 10 degrees, 8 % of scale and shear, and 1 of 28 pixels."""
    return PAGE.moved(images, random, degrees=10, pixels=1, stretch=0.08)


def tunable(head: keras.Model, rate: float, steps: int, precision: str) -> keras.Model:
    """VGG16 up to block 3, its first block frozen, under a trained head; Adam with warm-up and cosine decay."""
    with computing_in(precision):
        base = vgg16("block3_pool", SIZE)
    for layer in base.layers:
        layer.trainable = not layer.name.startswith(tuple(f"block{b + 1}" for b in range(FROZEN_BLOCKS)))
    warm_up = steps // 10  # Adam's first steps are its wildest, and the weights it would hit are good ones
    schedule = keras.optimizers.schedules.CosineDecay(0.0, steps - warm_up, warmup_target=rate, warmup_steps=warm_up)
    return compiled(keras.Model(base.input, head(base.output), name="tuned"), keras.optimizers.Adam(schedule))


def rate_trial(records: Records, digits: Digits, hidden: int, rate: float, precision: str) -> dict:
    """Three passes over 55,000 training digits, judged on the other 5,000: which learning rate to take."""
    n, epochs = digits.choosing, 3

    def measure() -> dict:
        head, _ = trained_head(digits, SIZE, hidden, n, 0)  # never saw the validation digits
        keras.utils.set_random_seed(0)
        batches = Batches(digits.images[:n], digits.labels[:n], BATCH, 0, turned)
        model = tunable(head, rate, epochs * len(batches), precision)
        model.fit(batches, epochs=epochs, shuffle=False, verbose=0)
        seen = score(in_float32(model), digits.images[n:], digits.labels[n:])
        right = round(seen["right"] / len(digits.labels[n:]), 4)
        return {"validation_accuracy": right, "validation_loss": seen["loss"]}

    settings = {"run": "choice of learning rate", "rate": rate, "seed": 0, "train": n, "epochs": epochs}
    return records.run(measure, **settings, precision=precision)


def tuned(records: Records, digits: Digits, hidden: int, rate: float, seed: int, epochs: int, precision: str) -> None:
    """LP-FT: blocks 2 and 3 trained on, from the teacher's weights and a head that was trained on frozen features."""
    name, steps = f"tuned_{epochs}_{seed}", epochs * -(-digits.training // BATCH)

    def epoch(model: keras.Model, number: int) -> dict:
        batches = Batches(digits.images, digits.labels, BATCH, seed, turned)
        batches.start(number)
        history = model.fit(batches, shuffle=False, verbose=0).history
        return {key: round(values[0], 4) for key, values in history.items()}

    def measure() -> dict:
        head, _ = trained_head(digits, SIZE, hidden, digits.training, seed)
        model, curves = train_by_epochs(name, lambda: tunable(head, rate, steps, precision), epoch, epochs, seed)
        seen = score(in_float32(model), digits.test.images, digits.test.labels)
        result = summary(seen, digits.test.labels, digits.test.images)
        final = {"trainable": parameter_counts(model)[1], "weights": sha256_of_weights(model)}
        return final | result | {"curves": curves, "seconds": round(sum(curves["seconds"]), 1)}

    settings = {"run": "fine-tuned, block 3", "rate": rate, "seed": seed, "train": digits.training, "epochs": epochs}
    records.run(measure, **settings, precision=precision)
    forget(name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", default="", help="an mnist.npz; default: Keras's cache, else its download (11 MB)")
    parser.add_argument(
        "--precision", default="mixed_bfloat16", choices=("float32", "mixed_bfloat16"), help="of fine-tuning"
    )
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds of fine-tuning (1 to 3)")
    parser.add_argument("--record", type=Path, default=FILE, help="the file that takes the runs")
    parser.add_argument("--epochs", type=int, default=12, help="passes of fine-tuning")
    given = parser.parse_args()
    tf.config.experimental.enable_op_determinism()
    what = "VGG16 on all of MNIST: the article's recipe, frozen at block 3, and fine-tuned"
    records = Records(given.record, what, __file__)
    digits = Digits(given.mnist)
    records.run(lambda: {"cut": digits.block3(32) and "block3_pool"}, run="features", images=70_000)
    choice = [frozen(records, digits, hidden, digits.choosing, 0) for hidden in (0, 512)]
    hidden = max(choice, key=lambda run: run["validation_accuracy"])["hidden"]
    for seed in SEEDS:
        frozen(records, digits, hidden, digits.training, seed)
    trials = [rate_trial(records, digits, hidden, rate, given.precision) for rate in (1e-4, 3e-4, 1e-3)]
    rate = min(trials, key=lambda run: run["validation_loss"])["rate"]
    for seed in SEEDS[: given.seeds]:
        tuned(records, digits, hidden, rate, seed, given.epochs, given.precision)
    for seed in SEEDS:
        article(records, digits, seed)
    for seed in SEEDS:
        for n in (digits.choosing, digits.training):
            forget(f"frozen_{SIZE}_{hidden}_{n}_{seed}")


if __name__ == "__main__":
    main()
