"""Keras 3 with PyTorch, model.fit."""
# requires keras scikit-learn
# tried in CI: test_keras

import hashlib
import os

os.environ["KERAS_BACKEND"] = "torch"

import keras
import numpy as np
from sklearn.datasets import load_digits


class PrintSteps(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        print("step", int(self.model.optimizer.iterations), flush=True)


keras.utils.set_random_seed(0)
x, y = load_digits(return_X_y=True)
model = keras.Sequential(
    [keras.Input((64,)), keras.layers.Dense(64, activation="relu"), keras.layers.Dropout(0.2), keras.layers.Dense(10)]
)
model.compile(
    optimizer="adam",
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
model.fit(x / 16, y, epochs=12, batch_size=64, verbose=0, callbacks=[PrintSteps()])
weights = b"".join(np.asarray(value).tobytes() for value in model.get_weights())
print("final", hashlib.sha256(weights).hexdigest()[:12], int(model.optimizer.iterations))
