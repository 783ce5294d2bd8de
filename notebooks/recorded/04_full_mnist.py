"""The recorded runs of notebook 04 on all of MNIST: the article's recipe, a better frozen network, fine-tuning.

    make full NB=04            or, with a copy of MNIST elsewhere than in Keras's cache:
    python notebooks/recorded/04_full_mnist.py --mnist FILE

Each run goes into 04_full_mnist.json as it ends; trainings are kept epoch by epoch. Interrupted, even by
kill -9, it goes on where it stopped and ends with the same numbers. Delete the JSON to make all runs anew:
somewhat over an hour on two cores. Fine-tuning computes in bfloat16 where --precision says so: three times
as fast on processors with AVX512-BF16 or AMX, slower than float32 on all others.
"""

import argparse
import base64
import os
import time
from pathlib import Path

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # faster training; must be set before TensorFlow starts

import helpers  # noqa: F401, I001
import cv2
import keras
import numpy as np
import tensorflow as tf
from keras import layers
from sklearn.preprocessing import StandardScaler

from helpers.data import ImageSet, mnist_full
from helpers.features import Batches, extract
from helpers.models import article_vgg16, classifier_head, parameter_counts, vgg16
from helpers.pictures import resize
from helpers.records import Records, forget, sha256_of_weights, train_by_epochs

SEEDS = (0, 1, 2)
FILE = Path(__file__).with_suffix(".json")


def both(train: ImageSet, validation: ImageSet) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of all 60,000 training digits."""
    return np.concatenate([train.images, validation.images]), np.concatenate([train.labels, validation.labels])


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
    confusion = np.zeros((10, 10), int)
    np.add.at(confusion, (labels, said), 1)
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
        "confusion": confusion.tolist(),
        "calibration": calibration,
        **({"mistakes": mistakes} if mistakes else {}),
    }


# --- the article's recipe, to the letter ---------------------------------------------------------


def article_features(digits) -> list[np.ndarray]:
    """What the frozen base says of all digits at 48 x 48, scaled by 1/255: computed once."""
    article = article_vgg16(48, "unit")
    base = keras.Model(article.input, article.get_layer("block5_pool").output, name="article_base")
    return [extract(base, np.stack([cv2.resize(image, (48, 48)) for image in part.images])) for part in digits]


def article(records: Records, digits, seed: int) -> None:
    """60,000 digits, SGD 0.05 with decay 1e-5, batches of 64, 10 epochs; curves on the 10,000 test digits."""
    train, validation, test = article_features(digits)
    known = np.concatenate([train, validation]), np.concatenate([digits.train.labels, digits.validation.labels])

    def build() -> keras.Model:
        model = article_vgg16(48, "unit")
        head = keras.Sequential([keras.Input((1, 1, 512)), *model.layers[-5:]], name="article_head")
        schedule = keras.optimizers.schedules.InverseTimeDecay(0.05, decay_steps=1, decay_rate=1e-5)
        return compiled(head, keras.optimizers.SGD(schedule))

    def epoch(head: keras.Model, number: int) -> dict:
        history = head.fit(*known, batch_size=64, verbose=0, validation_data=(test, digits.test.labels)).history
        return {key: round(values[0], 4) for key, values in history.items()}

    def measure() -> dict:
        head, curves = train_by_epochs(f"article_{seed}", build, epoch, 10, seed)
        parameters = parameter_counts(article_vgg16(48, "unit"))[0]
        result = summary(score(head, test, digits.test.labels), digits.test.labels)
        final = {"parameters": parameters, "trainable": parameter_counts(head)[1], "weights": sha256_of_weights(head)}
        return final | result | {"curves": curves, "seconds": round(sum(curves["seconds"]), 1)}

    records.run(measure, run="article's recipe", seed=seed, train=60_000, epochs=10, precision="float32")
    forget(f"article_{seed}")


# --- a better frozen network ---------------------------------------------------------------------


def frozen_head(scaler: StandardScaler, hidden: int, epochs: int, steps: int) -> keras.Model:
    """Standardised features, an optional hidden layer, dropout, softmax; Adam with a cosine decay."""
    head = keras.Sequential([keras.Input((4, 4, 256)), layers.Flatten()], name="frozen_head")
    head.add(layers.Normalization(mean=scaler.mean_, variance=scaler.scale_**2))
    head.add(classifier_head((4096,), 10, (hidden,) if hidden else (), dropout=0.5))
    return compiled(head, keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(1e-3, epochs * steps)))


def frozen(records: Records, digits, features, hidden: int, all_of_it: bool, seed: int, keep: bool = False):
    """Cut at block 3, 32 x 32 pixels, 12 epochs: judged on validation or, with all 60,000, on test digits."""
    train, validation, test = features
    inputs, labels = train, digits.train.labels
    if all_of_it:
        inputs = np.concatenate([train, validation])
        labels = np.concatenate([labels, digits.validation.labels])
    name = f"frozen_{hidden}_{all_of_it}_{seed}"
    epochs, steps = 12, -(-len(labels) // 128)

    def epoch(head: keras.Model, number: int) -> dict:
        batches = Batches(inputs, labels, 128, seed)
        batches.start(number)
        history = head.fit(batches, shuffle=False, verbose=0).history
        return {key: round(values[0], 4) for key, values in history.items()}

    def build() -> keras.Model:
        sample = np.random.default_rng(0).choice(len(train), 10_000, replace=False)
        return frozen_head(StandardScaler().fit(train[np.sort(sample)].reshape(10_000, -1)), hidden, epochs, steps)

    def measure() -> dict:
        head, curves = train_by_epochs(name, build, epoch, epochs, seed)
        if all_of_it:
            result = summary(score(head, test, digits.test.labels), digits.test.labels, digits.test.images)
        else:
            seen = score(head, validation, digits.validation.labels)
            result = {"validation_accuracy": round(seen["right"] / len(validation), 4)}
        final = {"trainable": parameter_counts(head)[1], "weights": sha256_of_weights(head)}
        return final | result | {"curves": curves, "seconds": round(sum(curves["seconds"]), 1)}

    record = records.run(
        measure, run="frozen, block 3", hidden=hidden, seed=seed, train=len(labels), epochs=epochs, precision="float32"
    )
    if keep:  # the head from which fine-tuning starts; nothing is trained again if it is still there
        return train_by_epochs(name, build, epoch, epochs, seed)[0]
    return record


# --- fine-tuned ----------------------------------------------------------------------------------


def moved(images: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Each digit turned by up to 10 degrees, scaled by up to 10 %, sheared and moved by up to 2 of 32 pixels."""
    result = np.empty_like(images)
    for image, out in zip(images, result, strict=True):
        turn, shear = np.deg2rad(random.uniform(-10, 10)), random.uniform(-0.1, 0.1)
        scale = random.uniform(0.9, 1.1, 2)
        matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ [[1, shear], [0, 1]] * scale
        middle = (image.shape[0] - 1) / 2
        shift = middle - matrix @ (middle, middle) + random.uniform(-2, 2, 2)
        cv2.warpAffine(image, np.column_stack([matrix, shift]), image.shape[:2], dst=out)
    return result


def tunable(head: keras.Model, optimizer: keras.optimizers.Optimizer, precision: str) -> keras.Model:
    """VGG16 up to block 3, nothing frozen, under a head that is trained already; computing in `precision`."""
    keras.config.set_dtype_policy(precision)
    base = vgg16("block3_pool", 32)
    keras.config.set_dtype_policy("float32")
    return compiled(keras.Model(base.input, head(base.output), name="tuned"), optimizer)


def in_float32(model: keras.Model) -> keras.Model:
    """The same network with the same weights, computing in float32: that is what is tested."""
    base = vgg16("block3_pool", 32, weights=None)
    head = keras.models.clone_model(model.layers[-1])
    twin = keras.Model(base.input, head(base.output))
    twin.set_weights(model.get_weights())
    return twin


def rate_trial(records: Records, digits, head: keras.Model, rate: float, precision: str) -> dict:
    """One pass over 10,000 training digits, judged on validation digits: which learning rate to take."""

    def measure() -> dict:
        keras.utils.clear_session()
        keras.utils.set_random_seed(0)
        model = tunable(keras.models.clone_model(head), keras.optimizers.Adam(rate), precision)
        model.layers[-1].set_weights(head.get_weights())
        batches = Batches(resize(digits.train.images[:10_000], 32), digits.train.labels[:10_000], 32, 0, moved)
        model.fit(batches, shuffle=False, verbose=0)
        seen = score(in_float32(model), resize(digits.validation.images, 32), digits.validation.labels)
        return {
            "validation_accuracy": round(seen["right"] / len(digits.validation), 4),
            "validation_loss": seen["loss"],
        }

    return records.run(
        measure, run="choice of learning rate", rate=rate, seed=0, train=10_000, epochs=1, precision=precision
    )


def tuned(records: Records, digits, head: keras.Model, rate: float, seed: int, epochs: int, precision: str) -> None:
    """LP-FT: every block trained on, from the teacher's weights and the frozen run's head; cosine decay."""
    images, labels = both(digits.train, digits.validation)
    images = resize(images, 32)
    steps, name = -(-len(labels) // 32), f"tuned_{seed}"

    def build() -> keras.Model:
        optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, epochs * steps))
        return tunable(head, optimizer, precision)

    def epoch(model: keras.Model, number: int) -> dict:
        batches = Batches(images, labels, 32, seed, moved)
        batches.start(number)
        history = model.fit(batches, shuffle=False, verbose=0).history
        return {key: round(values[0], 4) for key, values in history.items()}

    def measure() -> dict:
        model, curves = train_by_epochs(name, build, epoch, epochs, seed)
        seen = score(in_float32(model), resize(digits.test.images, 32), digits.test.labels)
        result = summary(seen, digits.test.labels, digits.test.images)
        final = {"trainable": parameter_counts(model)[1], "weights": sha256_of_weights(model), "rate": rate}
        return final | result | {"curves": curves, "seconds": round(sum(curves["seconds"]), 1)}

    records.run(measure, run="fine-tuned, block 3", seed=seed, train=60_000, epochs=epochs, precision=precision)
    forget(name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", default="", help="an mnist.npz; default: Keras's cache, else its download (11 MB)")
    parser.add_argument("--precision", default="float32", choices=("float32", "mixed_bfloat16"), help="of fine-tuning")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="how many seeds of fine-tuning (1 to 3)")
    parser.add_argument("--epochs", type=int, default=5, help="passes of fine-tuning")
    given = parser.parse_args()
    tf.config.experimental.enable_op_determinism()
    records = Records(FILE, "VGG16 on all of MNIST: the article's recipe, frozen at block 3, and fine-tuned")
    digits = mnist_full(28, given.mnist, download_allowed=True)
    base = vgg16("block3_pool", 32)
    start = time.perf_counter()
    features = [extract(base, resize(part.images, 32)) for part in digits]
    records.run(
        lambda: {"seconds": round(time.perf_counter() - start, 1)}, run="features", cut="block3_pool", images=70_000
    )
    choice = [frozen(records, digits, features, hidden, False, 0) for hidden in (0, 512)]
    hidden = max(choice, key=lambda run: run["validation_accuracy"])["hidden"]
    for seed in SEEDS:
        frozen(records, digits, features, hidden, True, seed)
    article(records, digits, SEEDS[0])
    head = frozen(records, digits, features, hidden, True, 0, keep=True)
    trials = [rate_trial(records, digits, head, rate, given.precision) for rate in (3e-5, 1e-4, 3e-4)]
    rate = min(trials, key=lambda run: run["validation_loss"])["rate"]
    for seed in SEEDS[: given.seeds]:
        tuned(records, digits, head, rate, seed, given.epochs, given.precision)
    for seed in SEEDS[1:]:
        article(records, digits, seed)


if __name__ == "__main__":
    main()
