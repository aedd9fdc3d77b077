"""flax (nnx) with an orbax CheckpointManager that continues by itself."""
# requires flax orbax-checkpoint optax

import hashlib
from pathlib import Path

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import nnx

EPOCHS = 40
x = jax.random.normal(jax.random.key(0), (1024, 64))
y = (x.sum(1) > 0).astype("int32")


class Model(nnx.Module):
    def __init__(self, rngs):
        self.first, self.second = nnx.Linear(64, 64, rngs=rngs), nnx.Linear(64, 2, rngs=rngs)

    def __call__(self, inputs):
        return self.second(nnx.relu(self.first(inputs)))


@nnx.jit
def train_step(model, optimizer, inputs, labels):
    def loss_of(model):
        return optax.softmax_cross_entropy_with_integer_labels(model(inputs), labels).mean()

    optimizer.update(model, nnx.grad(loss_of)(model))


model = Model(nnx.Rngs(0))
optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)
manager = ocp.CheckpointManager(Path("checkpoints").absolute(), options=ocp.CheckpointManagerOptions(max_to_keep=2))
start = 0
if manager.latest_step() is not None:
    start = manager.latest_step()
    restored = manager.restore(start, args=ocp.args.StandardRestore(nnx.state((model, optimizer))))
    nnx.update((model, optimizer), restored)
for epoch in range(start, EPOCHS):
    for first in range(0, len(x), 32):
        train_step(model, optimizer, x[first : first + 32], y[first : first + 32])
    print("step", epoch + 1, flush=True)
    if (epoch + 1) % 10 == 0:
        manager.save(epoch + 1, args=ocp.args.StandardSave(nnx.state((model, optimizer))))
manager.wait_until_finished()
weights = b"".join(np.asarray(value).tobytes() for value in jax.tree.leaves(nnx.state(model)))
print("final", hashlib.sha256(weights).hexdigest()[:12], EPOCHS)
