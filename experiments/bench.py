"""How fast, and with how much memory: four measurements, each of them a comparison within one run on one machine.

    make bench                                   or, with a copy of MNIST elsewhere than in Keras's cache:
    python experiments/bench.py --mnist FILE

(a) seconds from the start of a process to 96.26 % of MNIST's official test digits: ours, and the article's recipe
    (its steps are timed here and multiplied by its own number of steps);
(b) feature extraction as a fraction of the speed of a large float32 matrix product in the same process;
(c) training on cached features against computing the frozen base anew in every pass;
(d) seconds and peak memory against the number of images.

Medians; about ten minutes on two cores that do nothing else. Writes build/bench.json and a picture beside it (--record
names another file); everything is measured anew, unless --resume keeps what an interrupted bench has measured. Without
the full MNIST (11 MB, fetched where that is allowed) the 5,000 embedded digits stand in, which the result then says.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import helpers  # noqa: F401  (first: it quiets TensorFlow)

# isort: split
import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

import lesson
from helpers.assets import FileError
from helpers.data import Splits, balanced_subset, mnist
from helpers.features import extract
from helpers.images import resize
from helpers.models import vgg16
from mnist_data import mnist_full, training_digits
from records import FOLDER, Records
from training import Batches, classifier_head

FILE = FOLDER.parent.parent / "build" / "bench.json"
PAGE = lesson.load("04")
TARGET = 0.9626  # the better one of the article's two results
ARTICLE_TRAINING, ARTICLE_TEST, ARTICLE_EPOCHS, ARTICLE_BATCH = 60_000, 10_000, 10, 64
FULL = "MNIST, 60,000 + 10,000 digits"
OURS_TRAINING = 1_500  # digits that our way needs to pass TARGET
COUNTS = (1_000, 3_000, 10_000, 30_000, 60_000)


def digits(file: str) -> Splits:
    """All of MNIST, else the embedded digits. Raises FileError where a named file is no MNIST."""
    if file:
        return mnist_full(28, file)
    try:
        return mnist_full(28, download_allowed=True)
    except FileError:
        return mnist(28)


def compiled(head: keras.Model, rate: float = 1e-3) -> keras.Model:
    head.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return head


def peak_mb() -> int:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


# --- what the processes do that are measured -------------------------------------------------------


def ours(file: str) -> dict:
    """From digits to a judged network: block 3 of VGG16, features of 1,500 digits, one softmax layer."""
    known, _, test = digits(file)
    known = balanced_subset(known, OURS_TRAINING // 10)
    base = vgg16("block3_pool", 28)
    features = extract(base, known.images, cache=False)
    keras.utils.set_random_seed(0)
    head = compiled(PAGE.standardised_head(features))
    head.fit(features, known.labels, batch_size=32, epochs=15, verbose=0)
    said = head.predict(extract(base, test.images, cache=False), batch_size=500, verbose=0).argmax(1)
    return {"test_accuracy": round(float((said == test.labels).mean()), 4), "test_digits": len(test)}


def article_steps() -> dict:
    """Median seconds of a training step and of a test batch of the article's recipe, base and head as one model."""
    known = mnist(28).train
    model = PAGE.article_model()
    optimizer = keras.optimizers.SGD(PAGE.article_schedule(0.05))
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    images = PAGE.enlarged(known.images[:ARTICLE_BATCH])
    labels = known.labels[:ARTICLE_BATCH]
    training = [seconds(lambda: model.train_on_batch(images, labels)) for _ in range(13)]
    testing = [seconds(lambda: model.test_on_batch(images, labels)) for _ in range(8)]
    return {"step": float(np.median(training[3:])), "test_step": float(np.median(testing[3:]))}


def seconds(action) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def extraction_speed() -> dict:
    """Multiplications and additions per second: extraction at block 3, and a matrix product, by turns."""
    images = resize(mnist(28).train.images[:960], 32)
    base = vgg16("block3_pool", 32)
    per_image = 2 * sum(
        int(np.prod(layer.kernel.shape)) * int(np.prod(layer.output.shape[1:3]))
        for layer in base.layers
        if isinstance(layer, keras.layers.Conv2D)
    )
    a = tf.random.normal((2048, 2048))
    product = tf.function(lambda: tf.linalg.matmul(a, a))
    rounds = []
    for _ in range(8):
        multiply = seconds(lambda: [product().numpy()[0, 0] for _ in range(10)]) / 10
        rounds.append((len(images) / seconds(lambda: extract(base, images, cache=False)), 2 * 2048**3 / multiply))
    rate, flops = np.array(rounds[2:]).T
    return {
        "images_per_second": round(float(np.median(rate)), 1),
        "operations_per_image": per_image,
        "gflops_of_matrix_product": round(float(np.median(flops)) / 1e9, 1),
        "ratio": round(float(np.median(rate * per_image / flops)), 3),
    }


def cached_or_anew() -> dict:
    """Ten passes over 2,000 digits: features once and then the head, or base and head in every step."""
    known = balanced_subset(mnist(28).train, 200)
    images, epochs = resize(known.images, 32), 10
    base = vgg16("block3_pool", 32)
    base.trainable = False
    keras.utils.set_random_seed(0)
    first, second = (classifier_head(base.output_shape[1:], 10) for _ in range(2))
    second.set_weights(first.get_weights())
    whole = compiled(keras.Model(base.input, second(base.output)), 1e-5)
    compiled(first, 1e-5)

    def train(model: keras.Model, inputs: np.ndarray) -> None:
        model.fit(Batches(inputs, known.labels, 32), shuffle=False, epochs=epochs, verbose=0)

    def once() -> None:
        train(first, extract(base, images, cache=False))

    cached, anew = seconds(once), seconds(lambda: train(whole, images))
    new = images[:200]
    difference = np.abs(whole.predict(new, verbose=0) - first.predict(base.predict(new, verbose=0), verbose=0)).max()
    if difference > 1e-3:
        raise SystemExit(f"the two trainings differ by {difference:.2g}: they must be the same")
    return {"cached": cached, "anew": anew, "ratio": anew / cached, "largest_difference": float(difference)}


def memory(file: str, count: int) -> dict:
    """Features of `count` digits into a fresh cache, then 12 passes of a softmax layer over them."""
    everything = training_digits(digits(file))
    images, labels = everything.images[:count], everything.labels[:count]
    del everything
    base = vgg16("block3_pool", 32)
    images = resize(images, 32)
    before = peak_mb()
    start = time.perf_counter()
    features = extract(base, images)
    extracted, extraction_mb = time.perf_counter() - start, peak_mb()
    head = compiled(PAGE.standardised_head(features[:2000]))
    head.fit(Batches(features, labels, 128), shuffle=False, epochs=12, verbose=0)
    return {
        **{"extraction_seconds": round(extracted, 1)},
        **{"seconds": round(time.perf_counter() - start, 1), "mb_before": before},
        **{"extraction_mb": extraction_mb, "process_mb": peak_mb()},
    }


# --- the runs --------------------------------------------------------------------------------------


def in_process(what: str, file: str, cache: str, *extra: str) -> tuple[float, dict]:
    """One measurement in a process of its own: (seconds from its start to its end, what it measured)."""
    command = [sys.executable, __file__, "--mnist", file, "--only", what, *extra]
    environment = {**os.environ, "HELPERS_CACHE": cache, "TQDM_DISABLE": "1"}
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    spent = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{what} failed:\n{done.stderr[-2000:]}")
    result = json.loads(done.stdout.splitlines()[-1])
    print(f"{what} {' '.join(extra)}: {spent:.1f} s, {result}", flush=True)
    return spent, result


def to_the_articles_accuracy(file: str, cache: str) -> dict:
    """Seconds of three processes of ours, and of the article's recipe from the steps timed in between."""
    fast = [in_process("ours", file, cache) for _ in range(3)]
    steps = in_process("article_steps", file, cache)[1]
    own = -(-ARTICLE_TRAINING // ARTICLE_BATCH), -(-ARTICLE_TEST // ARTICLE_BATCH)
    article = ARTICLE_EPOCHS * (own[0] * steps["step"] + own[1] * steps["test_step"])
    median = float(np.median([spent for spent, _ in fast]))
    return {
        **fast[0][1],
        **{"seconds": round(median, 1), "seconds_of_each": [round(spent, 1) for spent, _ in fast]},
        **{"article_seconds": round(article), "article_step": round(steps["step"], 4)},
        **{"article_test_step": round(steps["test_step"], 4)},
        **{"article_steps": ARTICLE_EPOCHS * own[0], "article_test_steps": ARTICLE_EPOCHS * own[1]},
        "ratio": round(article / median, 1),
    }


def cached_features(file: str, cache: str) -> dict:
    """Medians of three processes."""
    runs = [in_process("cached_or_anew", file, cache)[1] for _ in range(3)]
    return {key: round(float(np.median([run[key] for run in runs])), 6 if key[0] == "l" else 2) for key in runs[0]}


def memory_of(file: str, count: int) -> dict:
    with tempfile.TemporaryDirectory() as fresh:
        return in_process("memory", file, fresh, "--count", str(count))[1]


def bench(records: Records, file: str, data: str, cache: str) -> None:
    """All four measurements, each recorded as it ends."""

    def take(measure: Callable[[], dict], measurement: str, **settings) -> None:
        records.run(measure, measurement=measurement, data=data, **settings)

    settings = {"target": TARGET, "training_digits": OURS_TRAINING}
    take(lambda: to_the_articles_accuracy(file, cache), "to the article's accuracy", **settings)
    take(lambda: in_process("extraction_speed", file, cache)[1], "extraction")
    take(lambda: cached_features(file, cache), "cached features")
    for count in COUNTS if data == FULL else COUNTS[:2]:
        take(lambda: memory_of(file, count), "memory", images=count)  # noqa: B023


def picture(curve: list[dict], path: Path) -> None:
    """Seconds and peak memory against the number of images."""
    counts = [run["images"] for run in curve]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    left.plot(counts, [run["seconds"] for run in curve], "o-", label="extraction and 12 passes of training")
    left.plot(counts, [run["extraction_seconds"] for run in curve], "s--", label="extraction")
    left.set(title="Time", xlabel="images", ylabel="seconds", xlim=(0, None), ylim=(0, None))
    right.plot(counts, [run["process_mb"] for run in curve], "o-", label="process, to the end")
    right.plot(counts, [run["extraction_mb"] - run["mb_before"] for run in curve], "s--", label="added by extraction")
    right.axhline(2048, color="0.5", linestyle=":", label="2 GiB")
    right.set(title="Peak memory", xlabel="images", ylabel="MB", xlim=(0, None), ylim=(0, 2300))
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.legend(loc="best")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", default="", help="an mnist.npz; default: Keras's cache, else its download (11 MB)")
    parser.add_argument("--record", type=Path, default=FILE, help="the file that takes the measurements")
    parser.add_argument("--resume", action="store_true", help="keep what this file has already")
    parser.add_argument("--only", default="", help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:
        arguments = {"ours": (given.mnist,), "memory": (given.mnist, given.count)}.get(given.only, ())
        print(json.dumps(globals()[given.only](*arguments)))
        return
    data = digits(given.mnist).train.source
    print(f"measuring on {data}: let the machine do nothing else", flush=True)
    given.record.parent.mkdir(parents=True, exist_ok=True)
    if not given.resume:
        given.record.unlink(missing_ok=True)
    records = Records(given.record, "four comparisons, each within one run on one machine", __file__)
    with tempfile.TemporaryDirectory() as cache:
        bench(records, given.mnist, data, cache)
    picture(records.find(measurement="memory"), given.record.with_suffix(".png"))


if __name__ == "__main__":
    main()
