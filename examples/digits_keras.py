"""Recognise handwritten digits with Keras; a script that knows nothing of Backprop.

`backprop run digits_keras.py -m 0.1`, then `backprop resume last` until it completes: the losses, the validation's too,
and the final weights are those of a run that was never cut. Shuffling, Dropout, a validation split and early stopping
are there because they have state of their own. Data: digits.csv.gz, as for digits.py.

The backend is PyTorch unless $KERAS_BACKEND names another one: it must be set before Keras is imported.
"""

import argparse
import json
import os
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np


def build(width: int, lr: float) -> keras.Model:
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(width, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(width, activation="relu"),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(10),
        ]
    )
    model.compile(
        optimizer=keras.optimizers.Adam(lr),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("digits_keras"))
    args = parser.parse_args()

    if keras.backend.backend() == "torch":
        import torch

        torch.set_num_threads(1)  # the model is small
    keras.utils.set_random_seed(args.seed)

    digits = np.loadtxt(Path(__file__).with_name("digits.csv.gz"), delimiter=",", dtype=np.int64)
    images, labels = (digits[:, :-1] / 16.0).astype("float32"), digits[:, -1]
    train, test = slice(0, 1437), slice(1437, None)

    model = build(args.width, args.lr)
    history = model.fit(
        images[train],
        labels[train],
        batch_size=args.batch,
        epochs=args.epochs,
        validation_split=0.2,
        callbacks=[
            keras.callbacks.ReduceLROnPlateau(patience=3, min_lr=1e-5),
            keras.callbacks.EarlyStopping(patience=30, restore_best_weights=True),
        ],
        verbose=2,
    )
    _, accuracy = model.evaluate(images[test], labels[test], verbose=0)
    print(f"accuracy on images that it has not seen: {accuracy:.4f}")

    args.out.mkdir(parents=True, exist_ok=True)
    model.save_weights(args.out / "model.weights.h5")
    (args.out / "history.json").write_text(json.dumps(history.history))


if __name__ == "__main__":
    main()
