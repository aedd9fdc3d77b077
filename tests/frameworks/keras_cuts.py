"""Runs under Backprop: small trainings of all kinds, each cut in several places, must end as those that were not cut.

`python keras_cuts.py [KIND...]` prints a line for each kind; "differs" or a traceback is a failure. With PyTorch every
session is a fork, because importing Keras takes seconds. The session is told what to resume from as the environment
would have told it. A cut is SIGINT at that very step, which Backprop's hook takes as a wish to stop at its end.
"""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import traceback
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np
from _backprop_trainer import link
from _backprop_trainer.channel import EventsFile
from _backprop_trainer.deferred_signals import DeferredSignals
from _backprop_trainer.hooks.keras import fit

BACKEND = keras.backend.backend()
X = np.random.default_rng(0).normal(size=(76, 6)).astype("float32")
Y = (X.sum(axis=1) > 0).astype("int32")
BATCH, EPOCHS, STEPS = 16, 3, 4  # of 64 samples; the others validate
VALID = (X[60:], Y[60:])
# the first $PLACES of these
PLACES = [(7, "train"), (4, "test"), (1, "train"), (4, "train"), (5, "train"), (12, "train"), (12, "test")]
PLACES = PLACES[: int(os.environ.get("PLACES", "7"))]
UNCUT = (0, "")
fit.WORTH_KEEPING_S = 0.0


class Cut(keras.callbacks.Callback):
    """Interrupts this process at a step, or at the first batch of the validation that follows."""

    def __init__(self, step, where):
        super().__init__()
        self.step, self.where = step, where

    def _interrupt(self, where):
        if where == self.where and int(self.model.optimizer.iterations.numpy()) == self.step:
            os.kill(os.getpid(), signal.SIGINT)

    def on_train_batch_end(self, batch, logs=None):
        self._interrupt("train")

    def on_test_batch_end(self, batch, logs=None):
        self._interrupt("test")


class Recorder(keras.callbacks.Callback):
    """State of a user's own callback, and proof of which batches callbacks heard of."""

    def __init__(self):
        super().__init__()
        self.heard = []

    def on_train_batch_end(self, batch, logs=None):
        self.heard.append((batch, float(logs["loss"])))


def layers():
    return [
        keras.layers.Dense(8, activation="relu"),
        keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.5),
        keras.layers.Dense(2),
    ]


def compiled(model, **options):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    options.setdefault("optimizer", keras.optimizers.Adam(0.01))
    model.compile(loss=loss, metrics=["accuracy"], **options)
    return model


def sequential(**options):
    return compiled(keras.Sequential([keras.Input((6,)), *layers()]), **options)


class Pairs(keras.utils.PyDataset):
    @property
    def num_batches(self):
        return STEPS

    def __getitem__(self, index):
        part = slice(index * BATCH, (index + 1) * BATCH)
        return X[part], Y[part]


def endless():
    while True:
        chosen = np.random.randint(0, 64, BATCH)  # noqa: NPY002  the generator that scripts share with us
        yield X[chosen], Y[chosen]


class OwnStep(keras.Model):
    """A subclass that is built when it sees data, and tells of its training in its own words."""

    def __init__(self):
        super().__init__()
        self.all = layers()

    def call(self, x, training=False):
        for layer in self.all:
            x = layer(x, training=training)
        return x


def arrays(callbacks):
    model = sequential()
    history = model.fit(
        X, Y, batch_size=BATCH, epochs=EPOCHS, validation_split=12 / 76, verbose=0,
        callbacks=[keras.callbacks.EarlyStopping(patience=1, restore_best_weights=True),
                   keras.callbacks.LearningRateScheduler(lambda epoch, lr: lr * 0.9),
                   keras.callbacks.CSVLogger("log.csv"), *callbacks],
    )  # fmt: skip
    return model, [history.history, Path("log.csv").read_text()]


def without_shuffle(callbacks):
    model = sequential()
    options = {"batch_size": BATCH, "epochs": EPOCHS, "verbose": 0, "callbacks": callbacks, "shuffle": False}
    return model, model.fit(X[:64], Y[:64], **options).history


def shuffle_batch(callbacks):
    model = sequential()
    options = {"batch_size": BATCH, "epochs": EPOCHS, "verbose": 0, "callbacks": callbacks, "shuffle": "batch"}
    return model, model.fit(X[:64], Y[:64], validation_data=VALID, **options).history


def generator(callbacks):
    model = sequential()
    options = {"steps_per_epoch": STEPS, "epochs": EPOCHS, "verbose": 0, "callbacks": callbacks, "shuffle": False}
    return model, model.fit(endless(), validation_data=VALID, **options).history


def dataset(callbacks):
    model = sequential()
    options = {"epochs": EPOCHS, "verbose": 0, "callbacks": callbacks, "shuffle": True}
    return model, model.fit(Pairs(), validation_data=VALID, **options).history


def short_epochs(callbacks):
    """Epochs that use a part of the data: the iterator goes on in the next epoch, and is renewed in the third."""
    model = sequential()
    options = {"batch_size": 8, "steps_per_epoch": STEPS, "epochs": EPOCHS, "verbose": 0, "callbacks": callbacks}
    return model, model.fit(X[:64], Y[:64], validation_data=VALID, **options).history


def moving_average(callbacks):
    model = sequential(optimizer=keras.optimizers.Adam(0.01, use_ema=True))
    callbacks = [keras.callbacks.SwapEMAWeights(), *callbacks]
    options = {"batch_size": BATCH, "epochs": EPOCHS, "verbose": 0, "callbacks": callbacks}
    return model, model.fit(X[:64], Y[:64], validation_data=VALID, **options).history


def subclass(callbacks):
    model = compiled(OwnStep())
    options = {"batch_size": BATCH, "epochs": EPOCHS, "verbose": 0, "callbacks": callbacks}
    return model, model.fit(X[:64], Y[:64], validation_data=VALID, **options).history


def two_fits(callbacks):
    """The first layer is trained only in the second fit, which begins with the epoch after the first one's."""
    model = keras.Sequential([keras.Input((6,)), *layers()])
    model.layers[0].trainable = False
    options = {"batch_size": BATCH, "verbose": 0, "callbacks": callbacks}
    first = compiled(model).fit(X[:64], Y[:64], epochs=1, **options).history
    model.layers[0].trainable = True
    iterations = int(model.optimizer.iterations.numpy())
    compiled(model)
    model.optimizer.build(model.trainable_variables)
    model.optimizer.iterations.assign(iterations)  # so that Cut counts through
    second = model.fit(X[:64], Y[:64], epochs=3, initial_epoch=1, validation_data=VALID, **options).history
    return model, [first, second]


def in_bunches(callbacks):
    """Several steps at once, the last time of an epoch fewer."""
    model = sequential(steps_per_execution=3)
    options = {"batch_size": BATCH, "epochs": EPOCHS, "verbose": 0, "callbacks": callbacks}
    return model, model.fit(X[:64], Y[:64], validation_data=VALID, **options).history


def data_loader(callbacks):
    import torch

    pairs = torch.utils.data.TensorDataset(torch.tensor(X[:64]), torch.tensor(Y[:64]))
    loader = torch.utils.data.DataLoader(pairs, batch_size=BATCH, shuffle=True)
    model = sequential()
    options = {"epochs": EPOCHS, "verbose": 0, "callbacks": callbacks, "shuffle": False}
    return model, model.fit(loader, validation_data=VALID, **options).history


def wider(callbacks):
    """A model that has nothing to do with the others' checkpoints."""
    model = compiled(keras.Sequential([keras.Input((6,)), keras.layers.Dense(9), *layers()]))
    options = {"batch_size": BATCH, "epochs": EPOCHS, "verbose": 0, "callbacks": callbacks}
    return model, model.fit(X[:64], Y[:64], **options).history


def folds(callbacks):
    """Trainings that differ in their data alone, and come in another order in a resumed session. The second is cut."""
    history = {}
    for fold in (2, 1, 0) if link.current().is_resumed else (0, 1, 2):
        keras.utils.set_random_seed(1)
        model = sequential()
        options = {"batch_size": BATCH, "epochs": EPOCHS, "verbose": 0, "callbacks": callbacks if fold == 1 else []}
        x = X[fold * 4 :][:64]
        history[fold] = [model.fit(x, Y[fold * 4 :][:64], **options).history, model.predict(X, verbose=0).tolist()]
    return model, sorted(history.items())


KINDS = [
    arrays, without_shuffle, shuffle_batch, generator, dataset, short_epochs, moving_average, subclass, two_fits,
    data_loader if BACKEND == "torch" else in_bunches,
]  # fmt: skip


def outcome(train, callbacks):
    """Everything that must be the same."""
    recorder = Recorder()
    model, history = train([*callbacks, recorder])
    variables = [*model.variables, *model.optimizer.variables]
    bits = hashlib.sha256(b"".join(keras.ops.convert_to_numpy(v.value).tobytes() for v in variables)).hexdigest()
    drawn = [random.random(), np.random.random()]  # noqa: NPY002  the same as above
    return json.dumps([history, recorder.heard, bits, drawn])


def session_of_its_own(train, folder, resume_from, cut):
    os.chdir(folder)
    here = link.current()
    here.resume_from, here._events = resume_from, EventsFile(str(folder / "events"))
    here.run_dir, here.is_resumed, here.session_number = (
        str(folder),
        resume_from is not None,
        1 + (resume_from is not None),
    )
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a new process
    here.interrupts = DeferredSignals(here.is_stop_requested)  # it knows its process
    KERAS_STORY.folder = str(folder / "checkpoints")
    if BACKEND == "torch":
        import torch

        torch.set_num_threads(1)
    keras.utils.set_random_seed(1)
    # callbacks are known by their place in the list: there must be a Cut even where it does not cut
    (folder / "outcome.json").write_text(outcome(train, [Cut(*cut)]))


def in_a_process(train, folder, resume_from, cut):
    """The outcome of a session, or the checkpoint that it left."""
    folder.mkdir(exist_ok=True)
    result, events = folder / "outcome.json", folder / "events"
    events.write_text("")
    if BACKEND != "torch":  # JAX and TensorFlow have threads, which a fork would lack
        words = [train.__name__, folder, resume_from or "", *cut]
        subprocess.run([sys.executable, __file__, "--session", *map(str, words)], check=True)
    elif (child := os.fork()) == 0:
        code = 1
        try:
            session_of_its_own(train, folder, resume_from, cut)
            code = 0
        except (link.Stopped, KeyboardInterrupt):  # no supervisor wished it: the latter
            code = 0
        except BaseException:  # noqa: BLE001  a fork must not go on with what its parent does
            traceback.print_exc()
        finally:
            os._exit(code)  # taking an interpreter down that has PyTorch takes longer than training
    else:
        assert os.waitpid(child, 0)[1] == 0
    if result.exists():
        return result.read_text(), None
    saved = [
        event for event in map(json.loads, events.read_text().splitlines()) if event.get("event") == "checkpoint_saved"
    ]
    return None, saved[-1]["path"] if saved else None


def cuts_that_differ(kind, root, whole):
    """How many cuts there were, and those after which the outcome was another one."""
    count, wrong = 0, []
    for place in PLACES:
        folder = root / f"{kind.__name__}-{place[0]}-{place[1]}"
        ended, checkpoint = in_a_process(kind, folder, None, place)
        if ended is None:
            count += 1
            assert checkpoint is not None, place
            ended, _ = in_a_process(kind, folder, checkpoint, UNCUT)
        if ended != whole:
            wrong.append(place)
            (folder / "whole.json").write_text(whole)
    return count, wrong


def trains_no_more(root):
    """Whether a fit that had ended is given back as it was when the script comes to it again, and not trained."""
    folder = root / "ended"
    whole, _ = in_a_process(arrays, folder, None, UNCUT)
    (kept,) = (folder / "checkpoints").glob("*finished*")
    again, _ = in_a_process(arrays, folder, str(kept), UNCUT)
    return again == whole and '"loss"' not in (folder / "events").read_text()


def keeps_out_of_others(root):
    """Whether a checkpoint of another model is left alone."""
    _, checkpoint = in_a_process(without_shuffle, root / "narrow", None, (5, "train"))
    alone, _ = in_a_process(wider, root / "wide", None, UNCUT)
    given, _ = in_a_process(wider, root / "wide", checkpoint, UNCUT)
    return alone == given


def keeps_folds_apart(root):
    """Whether each fold has its own model, though it is another call of the session."""
    outcomes, checkpoint = [], None
    for name, cut in (("folds-whole", UNCUT), ("folds", (5, "train")), ("folds", UNCUT)):
        ended, checkpoint = in_a_process(folds, root / name, checkpoint, cut)
        outcomes.append(ended)
    return json.loads(outcomes[0])[0] == json.loads(outcomes[2])[0]


def stories():
    for cell in keras.Model.fit.__closure__:
        if isinstance(cell.cell_contents, fit.FitSequence):
            return cell.cell_contents
    raise AssertionError("the hook is not in")


KERAS_STORY = stories()


def main():
    if sys.argv[1:2] == ["--session"]:
        name, folder, resume_from, step, where = sys.argv[2:]
        session_of_its_own(globals()[name], Path(folder), resume_from or None, (int(step), where))
        return
    chosen = [kind for kind in KINDS if kind.__name__ in sys.argv[1:] or len(sys.argv) == 1]
    root = Path("cuts").absolute()
    root.mkdir()
    for kind in chosen:
        whole, _ = in_a_process(kind, root / f"{kind.__name__}-whole", None, UNCUT)
        count, wrong = cuts_that_differ(kind, root, whole)
        print(f"{kind.__name__}: {count} cuts,", f"differs: {wrong}" if wrong else "equal", flush=True)
    if chosen == KINDS:
        print("ended:", "equal" if trains_no_more(root) else "differs", flush=True)
        print("another model:", "equal" if keeps_out_of_others(root) else "differs", flush=True)
        print("folds:", "equal" if keeps_folds_apart(root) else "differs", flush=True)


if __name__ == "__main__":
    main()
