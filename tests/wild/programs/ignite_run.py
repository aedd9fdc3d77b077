"""ignite, an Engine with Checkpoint."""
# requires pytorch-ignite

import argparse
import hashlib

import torch
from ignite.engine import Events, create_supervised_trainer
from ignite.handlers import Checkpoint, DiskSaver
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--resume-from", help="a checkpoint to continue from")
args = parser.parse_args()

torch.manual_seed(0)
x = torch.randn(1024, 64)
data = torch.utils.data.TensorDataset(x, (x.sum(1) > 0).long())
loader = torch.utils.data.DataLoader(data, batch_size=32)
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
trainer = create_supervised_trainer(model, optimizer, nn.CrossEntropyLoss())
to_save = {"model": model, "optimizer": optimizer, "trainer": trainer}


@trainer.on(Events.EPOCH_COMPLETED)
def print_steps(engine):
    print("step", engine.state.epoch, flush=True)


checkpoint = Checkpoint(to_save, DiskSaver("checkpoints", create_dir=True, require_empty=False), n_saved=2)
trainer.add_event_handler(Events.EPOCH_COMPLETED(every=4), checkpoint)
if args.resume_from:
    Checkpoint.load_objects(to_load=to_save, checkpoint=torch.load(args.resume_from))
trainer.run(loader, max_epochs=24)
weights = b"".join(value.numpy().tobytes() for value in model.state_dict().values())
print("final", hashlib.sha256(weights).hexdigest()[:12], trainer.state.iteration)
