"""Record the full-size experiments of notebook 04: all of MNIST, several seeds, hours on two cores.

    python notebooks/recorded/record_04.py --mnist mnist.npz                     # everything
    python notebooks/recorded/record_04.py --mnist mnist.npz --only article      # experiments by name

Every epoch and every finished experiment is written at once to the work folder. A run that is killed at
any moment goes on where it stopped and ends with the same numbers. What is finished is collected in
04_vgg16_mnist.json beside this file. Every choice is made on validation digits; test accuracies are
those after the last epoch.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

from helpers.data import ImageSet, mnist_full  # before Keras, which it quiets

# isort: split
import cv2
import keras
import numpy as np
from filelock import FileLock, Timeout
from keras import layers
from sklearn.linear_model import RidgeClassifier
from sklearn.preprocessing import StandardScaler

from helpers.features import Batches, extract
from helpers.models import CUTS, article_vgg16, classifier_head, parameter_counts, vgg16
from helpers.pictures import resize

HERE = Path(__file__).resolve().parent
SEEDS = (0, 1, 2)


class Recorder:
    """The digits, and the folder in which finished work and half-finished trainings are kept."""

    def __init__(self, work: Path, mnist: str, digits: int, epochs: int) -> None:
        self.work, self.most_epochs = work, epochs
        parts = mnist_full(28, mnist)
        self.train, self.validation, self.test = (part.take(np.arange(min(digits, len(part)))) for part in parts)

    def once(self, name: str, experiment: Callable[[], dict]) -> dict:
        """The result of `experiment`, from the work folder if it was finished before."""
        path = self.work / f"{name}.json"
        if path.exists():
            return json.loads(path.read_text())
        print(time.strftime("%H:%M:%S"), name, flush=True)
        reset_peak_memory()
        result = experiment() | {"peak_mb": peak_memory_mb()}
        write(path, json.dumps(result))
        return result

    def fit(self, name: str, model: keras.Model, batches: Batches, epochs: int, new: tuple) -> dict:
        """Train the compiled `model`, keeping its whole state after every epoch; its history, per epoch.

        The state holds weights, optimizer, the dropout's random state and the history. With the order
        of the batches, which the epoch decides, that is all the training depends on.
        """
        epochs = min(epochs, self.most_epochs)
        path = self.work / f"{name}.npz"
        model.optimizer.build(model.trainable_variables)
        variables = [*model.variables, *model.optimizer.variables]
        history: dict[str, list[float]] = {"seconds": []}
        if path.exists():
            with np.load(path, allow_pickle=False) as state:
                history = json.loads(str(state["history"]))
                for number, variable in enumerate(variables):
                    variable.assign(state[f"variable_{number}"])
        for epoch in range(len(history["seconds"]), epochs):
            start = time.perf_counter()
            batches.start(epoch)
            values = model.fit(
                batches, shuffle=False, validation_data=new, validation_batch_size=500, verbose=0
            ).history
            for metric, (value,) in (values | {"seconds": [time.perf_counter() - start]}).items():
                history.setdefault(metric, []).append(round(float(value), 6))
            state = {f"variable_{number}": variable.numpy() for number, variable in enumerate(variables)}
            with open(path.with_suffix(".tmp"), "wb") as file:
                np.savez(file, history=np.array(json.dumps(history)), **state)
            os.replace(path.with_suffix(".tmp"), path)
            print(f"  {name} epoch {epoch + 1}: val_accuracy {history['val_accuracy'][-1]:.4f}", flush=True)
        return history


# ---- digits, features, linear classifiers -----------------------------------------------------------


def as_the_article(part: ImageSet, size: int = 48) -> np.ndarray:
    """The digits enlarged as the article does it: bilinear, OpenCV's default."""
    return np.stack([cv2.resize(image, (size, size)) for image in part.images])


def together(first: ImageSet, second: ImageSet) -> ImageSet:
    """Both parts as one, for instance all 60,000 official training digits."""
    images, labels = (np.concatenate([getattr(p, name) for p in (first, second)]) for name in ("images", "labels"))
    return ImageSet(images, labels, first.class_names, first.source, first.licence)


def linear_accuracy(known: np.ndarray, labels: np.ndarray, new: np.ndarray, new_labels: np.ndarray) -> float:
    """Accuracy on `new` of ridge regression on standardised `known`."""
    scaler = StandardScaler().fit(known)
    classifier = RidgeClassifier(alpha=100).fit(scaler.transform(known), labels)
    return float(classifier.score(scaler.transform(new), new_labels))


def sgd(model: keras.Model, learning_rate: float = 0.05) -> keras.Model:
    """`model`, compiled with the article's optimizer."""
    schedule = keras.optimizers.schedules.InverseTimeDecay(learning_rate, decay_steps=1, decay_rate=1e-5)
    model.compile(keras.optimizers.SGD(schedule), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def adam(model: keras.Model, learning_rate: float, steps: int) -> keras.Model:
    """`model`, compiled with Adam, whose learning rate falls to 0 along a cosine."""
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    model.compile(keras.optimizers.Adam(schedule), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


# ---- the experiments ----------------------------------------------------------------------------------


def article(recorder: Recorder) -> dict:
    """The article's recipe to the letter: 60,000 digits, 10 epochs, the test digits watched as it did."""
    train, test = together(recorder.train, recorder.validation), recorder.test
    base = vgg16("block5_pool", 48, "unit")
    start = time.perf_counter()
    known, new = extract(base, as_the_article(train)), extract(base, as_the_article(test))
    seconds = time.perf_counter() - start
    runs = []
    for seed in SEEDS:

        def run(seed=seed) -> dict:
            keras.utils.set_random_seed(seed)
            model = article_vgg16(48, "unit")
            for layer in model.layers:
                layer.trainable = not layer.name.startswith("block")
            head = sgd(keras.Sequential([keras.Input((1, 1, 512)), *model.layers[-5:]]))
            history = recorder.fit(
                f"article_{seed}", head, Batches(known, train.labels, 64, seed), 10, (new, test.labels)
            )
            loss, accuracy = head.evaluate(new, test.labels, verbose=0)
            counts = dict(zip(("parameters", "trainable", "frozen"), parameter_counts(model), strict=True))
            return {"seed": seed, "test_accuracy": accuracy, "test_loss": loss, "curves": history} | counts

        runs.append(recorder.once(f"article_{seed}", run))
    return {"digits": len(train), "features_seconds": round(seconds, 1), "runs": runs} | spread(runs)


CHANGES = {
    "the article's recipe": {},
    "scaling as VGG16 was trained": {"scaling": "imagenet"},
    "32 × 32 pixels": {"size": 32},
    "64 × 64 pixels": {"size": 64},
    "cut at block 4": {"cut": "block4_pool"},
    "cut at block 3": {"cut": "block3_pool"},
    "learning rate 0.5": {"learning_rate": 0.5},
    "learning rate 0.005": {"learning_rate": 0.005},
    "one hidden layer of 512": {"hidden": (512,)},
    "softmax layer only": {"hidden": ()},
    "a fifth of the digits": {"digits": 2_000},
    "twice the digits": {"digits": 20_000},
}


def changes(recorder: Recorder) -> dict:
    """The article's recipe on 10,000 digits, and one thing changed at a time; accuracy on validation."""

    def run(cut="block5_pool", size=48, scaling="unit", learning_rate=0.05, hidden=(4096, 4096), digits=10_000) -> dict:
        base = vgg16(cut, size, scaling)
        some = recorder.train.take(np.arange(min(digits, len(recorder.train))))
        known, new = extract(base, as_the_article(some, size)), extract(base, as_the_article(recorder.validation, size))
        keras.utils.set_random_seed(0)
        head = sgd(classifier_head(known.shape[1:], 10, hidden, dropout=0.5), learning_rate)
        name = "-".join(map(str, (cut, size, scaling, learning_rate, *hidden, digits)))
        batches = Batches(known, some.labels, 64)
        history = recorder.fit(f"change_{name}", head, batches, 10, (new, recorder.validation.labels))
        return {"validation_accuracy": history["val_accuracy"][-1], "weights": head.count_params()}

    rows = []
    for number, (name, change) in enumerate(CHANGES.items()):
        rows.append({"change": name} | recorder.once(f"change_{number}", lambda change=change: run(**change)))
    for row in rows:
        row["gain"] = round(row["validation_accuracy"] - rows[0]["validation_accuracy"], 4)
    return {"training_digits": 10_000, "validation_digits": len(recorder.validation), "rows": rows}


def cuts(recorder: Recorder) -> dict:
    """Linear classifiers on 2,000 digits, after each block, for two sizes and two scalings."""
    some, new = (part.take(np.arange(min(2_000, len(part)))) for part in (recorder.train, recorder.validation))

    def run(size: int, scaling: str) -> dict:
        vgg = vgg16("block5_pool", size, scaling)
        accuracy = {}
        for cut in CUTS:
            base = keras.Model(vgg.input, layers.Flatten()(vgg.get_layer(cut).output), name=f"flat_{cut}")
            a, b = (extract(base, resize(part.images, size), cache=False) for part in (some, new))
            accuracy[cut] = linear_accuracy(a, some.labels, b, new.labels)
        return {"size": size, "scaling": scaling, "validation_accuracy": accuracy}

    grid = [(size, scaling) for size in (32, 48) for scaling in ("unit", "imagenet")]
    rows = [recorder.once(f"cuts_{size}_{scaling}", lambda s=size, p=scaling: run(s, p)) for size, scaling in grid]
    return {"training_digits": len(some), "validation_digits": len(new), "rows": rows}


def contrast(recorder: Recorder) -> dict:
    """Why 1/255 suits block 5: the same digits with more and more contrast, without any other change."""
    some, new = (part.take(np.arange(min(2_000, len(part)))) for part in (recorder.train, recorder.validation))

    def run(factor: float) -> dict:
        vgg = vgg16("block5_pool", 48, "none")
        inputs = keras.Input((48, 48, 3))
        base = keras.Model(inputs, layers.Flatten()(vgg(layers.Rescaling(factor)(inputs))), name="contrast")
        a, b = extract(base, as_the_article(some)), extract(base, as_the_article(new))
        spectrum = np.linalg.eigvalsh(np.corrcoef(a[:, a.std(axis=0) > 0], rowvar=False))
        return {
            "factor": factor,
            "validation_accuracy": linear_accuracy(a, some.labels, b, new.labels),
            "silent_features": float(np.mean(a.max(axis=0) == 0)),
            "zeros": float(np.mean(a == 0)),
            "effective_dimensions": float(spectrum.sum() ** 2 / (spectrum**2).sum()),
        }

    factors = (1 / 2550, 1 / 255, 1 / 64, 1 / 16, 1 / 4, 1.0)
    rows = [recorder.once(f"contrast_{number}", lambda f=factor: run(f)) for number, factor in enumerate(factors)]
    return {"training_digits": len(some), "validation_digits": len(new), "rows": rows}


def small_head(known: np.ndarray, hidden: tuple[int, ...]) -> keras.Sequential:
    """Standardised features, dropout, a softmax layer, and hidden layers before it if wanted."""
    scaler = StandardScaler().fit(known[:5_000].reshape(min(5_000, len(known)), -1))
    head = keras.Sequential([keras.Input(known.shape[1:]), layers.Flatten()])
    head.add(layers.Normalization(mean=scaler.mean_, variance=scaler.scale_**2))
    for units in hidden:
        head.add(layers.Dropout(0.5))
        head.add(layers.Dense(units, activation="relu"))
    head.add(layers.Dropout(0.5))
    head.add(layers.Dense(10, activation="softmax"))
    return head


HEADS = {"softmax": (), "512": (512,), "1024": (1024,)}


def fit_head(recorder: Recorder, name: str, train: tuple, new: tuple, hidden: tuple[int, ...], seed: int) -> tuple:
    """The head `hidden`, trained on features for 12 epochs, and its history; train, new: (features, labels)."""
    keras.utils.set_random_seed(seed)
    head = adam(small_head(train[0], hidden), 1e-3, 12 * -(-len(train[1]) // 128))
    return head, recorder.fit(name, head, Batches(*train, 128, seed), 12, new)


def frozen(recorder: Recorder) -> dict:
    """Frozen to block 3, 32 × 32 pixels: the head chosen on validation, then 3 seeds on all 60,000."""
    base = vgg16("block3_pool", 32)
    train, new, test = (
        (extract(base, resize(part.images, 32)), part.labels)
        for part in (recorder.train, recorder.validation, recorder.test)
    )
    candidates = {}
    for name, hidden in HEADS.items():

        def choose(name=name, hidden=hidden) -> dict:
            _, history = fit_head(recorder, f"frozen_{name}", train, new, hidden, seed=0)
            return {"validation_accuracy": history["val_accuracy"][-1], "seconds": sum(history["seconds"])}

        candidates[name] = recorder.once(f"frozen_{name}", choose)
    best = max(candidates, key=lambda name: candidates[name]["validation_accuracy"])
    both = together(recorder.train, recorder.validation)
    train = extract(base, resize(both.images, 32)), both.labels
    runs = []
    for seed in SEEDS:

        def run(seed=seed) -> dict:
            head, history = fit_head(recorder, f"frozen_all_{seed}", train, test, HEADS[best], seed)
            return {"seed": seed, "curves": history} | judged(head.predict(test[0], verbose=0), recorder.test)

        runs.append(recorder.once(f"frozen_all_{seed}", run))
    return {"digits": len(both), "candidates": candidates, "head": best, "runs": runs} | spread(runs)


def moved(images: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Digits turned by up to 12°, resized by up to 10 % and moved by up to 2 of 32 pixels, each its own way."""
    size = images.shape[1]
    for number, image in enumerate(images):
        turn, scale = random.uniform(-12, 12), random.uniform(0.9, 1.1)
        matrix = cv2.getRotationMatrix2D((size / 2, size / 2), turn, scale)
        matrix[:, 2] += random.uniform(-2, 2, 2)
        images[number] = cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR)
    return images


FINE_TUNING = {"epochs": 8, "batch_size": 64}


def finetuned(recorder: Recorder) -> dict:
    """LP-FT: the frozen network's head first, then everything up to block 3 is trained, digits moved a little."""
    learning_rates = {}
    for rate in (3e-5, 1e-4, 3e-4):

        def choose(rate=rate) -> dict:
            some = recorder.train.take(np.arange(min(10_000, len(recorder.train))))
            history, _ = tune(recorder, f"tune_{rate}", some, recorder.validation, rate, epochs=3, seed=0)
            return {"validation_accuracy": history["val_accuracy"][-1]}

        learning_rates[str(rate)] = recorder.once(f"tune_{rate}", choose)
    best = max(learning_rates, key=lambda rate: learning_rates[rate]["validation_accuracy"])
    train, runs = together(recorder.train, recorder.validation), []
    for seed in SEEDS[: recorder.tuned_seeds]:

        def run(seed=seed) -> dict:
            epochs = FINE_TUNING["epochs"]
            history, model = tune(recorder, f"tuned_{seed}", train, recorder.test, float(best), epochs, seed)
            probabilities = model.predict(resize(recorder.test.images, 32), verbose=0)
            return {"seed": seed, "curves": history} | judged(probabilities, recorder.test)

        runs.append(recorder.once(f"tuned_{seed}", run))
    return {
        "digits": len(train),
        "learning_rates": learning_rates,
        "learning_rate": float(best),
        "runs": runs,
    } | spread(runs)


def tune(recorder: Recorder, name: str, train: ImageSet, new: ImageSet, rate: float, epochs: int, seed: int):
    """Linear probe, then fine-tuning of the whole network: its history and the network."""
    base = vgg16("block3_pool", 32)
    images, new_images = resize(train.images, 32), resize(new.images, 32)
    known, known_new = extract(base, images), extract(base, new_images)
    probe = (known, train.labels), (known_new, new.labels)
    head, _ = fit_head(recorder, f"{name}_head", *probe, HEADS["512"], seed)
    batches = Batches(images, train.labels, FINE_TUNING["batch_size"], seed, moved)
    model = adam(keras.Sequential([keras.Input((32, 32, 3)), base, head]), rate, epochs * len(batches))
    return recorder.fit(name, model, batches, epochs, (new_images, new.labels)), model


# ---- what is written ------------------------------------------------------------------------------------


def judged(probabilities: np.ndarray, test: ImageSet) -> dict:
    """Accuracy, loss, confusion, calibration and the worst mistakes of predictions for the test digits."""
    predicted, labels = probabilities.argmax(axis=1), test.labels
    sure = probabilities.max(axis=1)
    confusion = np.zeros((10, 10), int)
    np.add.at(confusion, (labels, predicted), 1)
    wrong = np.flatnonzero(predicted != labels)
    wrong = wrong[np.argsort(-sure[wrong], kind="stable")][:30]
    edges = np.array([0, 0.5, 0.7, 0.9, 0.97, 0.99, 0.999, 1.0000001])
    bins = [(sure >= low) & (sure < high) for low, high in zip(edges[:-1], edges[1:], strict=True)]
    return {
        "test_accuracy": float(np.mean(predicted == labels)),
        "test_loss": float(-np.log(np.maximum(probabilities[np.arange(len(labels)), labels], 1e-12)).mean()),
        "confusion": confusion.tolist(),
        "calibration": [
            {"digits": int(b.sum()), "sure": float(sure[b].mean()), "right": float((predicted == labels)[b].mean())}
            for b in bins
            if b.any()
        ],
        "worst": [
            {
                "is": int(labels[i]),
                "said": int(predicted[i]),
                "sure": round(float(sure[i]), 4),
                "probability_of_right": round(float(probabilities[i, labels[i]]), 4),
                "pixels": test.images[i, ..., 0].tobytes().hex(),
            }
            for i in wrong
        ],
    }


def spread(runs: list[dict]) -> dict:
    """Mean and standard deviation of the test accuracy over the seeds."""
    values = [run["test_accuracy"] for run in runs]
    return {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0}


def write(path: Path, text: str) -> None:
    """`text` in `path`, whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def reset_peak_memory() -> None:
    """Let the system's record of the largest memory start anew, where it can (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass


def peak_memory_mb() -> int:
    """Largest resident memory since the record started, 0 where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) // 1024


def machine() -> dict:
    return {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, no GPU used",
        "versions": {"python": platform.python_version(), "keras": keras.__version__},
        "date": time.strftime("%Y-%m-%d"),
    }


EXPERIMENTS = {f.__name__: f for f in (article, cuts, contrast, changes, frozen, finetuned)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mnist", default="", help="path of mnist.npz; without it the copy in Keras's cache")
    parser.add_argument("--only", nargs="*", choices=EXPERIMENTS, default=list(EXPERIMENTS), help="experiments")
    parser.add_argument("--work", type=Path, default=HERE.parents[1] / "build" / "record_04", help="work folder")
    parser.add_argument("--out", type=Path, default=HERE / "04_vgg16_mnist.json", help="file of the results")
    parser.add_argument("--digits", type=int, default=100_000, help="at most so many digits per part, for trials")
    parser.add_argument("--epochs", type=int, default=1_000, help="at most so many epochs, for trials")
    parser.add_argument("--tuned-seeds", type=int, default=3, help="seeds of the fine-tuning")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("HELPERS_CACHE", str(options.work / "features"))
    try:
        with FileLock(options.work / "lock", timeout=0):
            recorder = Recorder(options.work, options.mnist, options.digits, options.epochs)
            recorder.tuned_seeds = options.tuned_seeds
            results = json.loads(options.out.read_text()) if options.out.exists() else {}
            for name in options.only:
                results |= {"what": "notebook 04 on all of MNIST", "made_by": Path(__file__).name} | machine()
                results[name] = {"what": EXPERIMENTS[name].__doc__.splitlines()[0]} | EXPERIMENTS[name](recorder)
                write(options.out, json.dumps(results, indent=1))
    except Timeout:
        raise SystemExit(f"another run works in {options.work}: wait for it, or give another --work") from None


if __name__ == "__main__":
    main()
