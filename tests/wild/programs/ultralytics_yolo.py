"""Ultralytics, a classifier from its .yaml."""
# requires ultralytics torch==2.14.1 torchvision==0.29.1

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image
from ultralytics import YOLO

draw = np.random.default_rng(0)
for split, count in (("train", 24), ("val", 8)):
    for kind, high in (("dark", 100), ("light", 255)):
        folder = Path("pictures", split, kind)
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            Image.fromarray(draw.integers(0, high, (32, 32, 3), dtype=np.uint8)).save(folder / f"{number}.png")

model = YOLO("yolov8n-cls.yaml")
model.add_callback("on_train_epoch_end", lambda trainer: print("step", trainer.epoch + 1, flush=True))
model.train(
    data=str(Path("pictures").absolute()),
    project=str(Path("runs").absolute()),
    epochs=20,
    imgsz=32,
    batch=8,
    workers=0,
    device="cpu",
    seed=0,
)
weights = b"".join(value.numpy().tobytes() for value in model.model.state_dict().values())
print("final", hashlib.sha256(weights).hexdigest()[:12], model.trainer.epoch + 1)
