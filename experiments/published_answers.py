"""`make weights`: fetch ResNet50's weights (98 MB), if missing, and compare its answers with published ones.

    python experiments/published_answers.py

The comparison is notebook 02's own. Ends with an error when an answer is more than one point off.
"""

import argparse
import sys

import helpers  # noqa: F401  (first: it quiets TensorFlow)

# isort: split
import keras

import lesson
from helpers.assets import FileError
from helpers.models import resnet50

PAGE = lesson.load("02")
LARGEST_DIFFERENCE = 1  # points: decoders of JPEG differ a little


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    try:
        network = resnet50(download_allowed=True)
    except FileError as error:
        sys.exit(f"error: {error}")
    prepare = keras.applications.resnet50.preprocess_input
    rows = PAGE.beside_published(lambda images: network.predict_on_batch(prepare(images.copy())))
    for row in rows:
        print("{:7} {:10} published {:5.2f} %, here {:5.2f} %".format(*row))
    largest = max(abs(published - here) for *_, published, here in rows)
    print(f"largest difference from the published answers: {largest:.2f} points")
    if largest > LARGEST_DIFFERENCE:
        sys.exit("error: more than 1 point: not the published ResNet50, or not fed as it was")


if __name__ == "__main__":
    main()
