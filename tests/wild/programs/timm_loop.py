"""timm, a loop with its two-stage argparse, --resume and resume_checkpoint."""
# requires timm torch==2.14.1 torchvision==0.29.1

import argparse
import hashlib

import timm
import torch
import yaml
from timm.models import resume_checkpoint
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import CheckpointSaver, random_seed

config_parser = argparse.ArgumentParser(description="Training Config", add_help=False)
config_parser.add_argument("-c", "--config", default="", metavar="FILE")
parser = argparse.ArgumentParser(description="PyTorch ImageNet Training")
parser.add_argument("--model", default="test_vit", help="name of the model to train")
parser.add_argument("--epochs", type=int, default=20)
parser.add_argument("--resume", default="", metavar="PATH", help="Resume full model and optimizer state")


def parse_args():
    args_config, remaining = config_parser.parse_known_args()
    if args_config.config:
        with open(args_config.config) as file:
            parser.set_defaults(**yaml.safe_load(file))
    return parser.parse_args(remaining)


args = parse_args()
random_seed(0)
model = timm.create_model(args.model, num_classes=10, img_size=32)
optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3)
start_epoch = 0
if args.resume:
    start_epoch = resume_checkpoint(model, args.resume, optimizer)
scheduler = CosineLRScheduler(optimizer, t_initial=args.epochs)
scheduler.step(start_epoch)
saver = CheckpointSaver(model, optimizer, args=args, checkpoint_dir=".", recovery_dir=".", max_history=3)
images, labels = torch.randn(64, 3, 32, 32), torch.randint(0, 10, (64,))
for epoch in range(start_epoch, args.epochs):
    for first in range(0, 64, 16):
        loss = torch.nn.functional.cross_entropy(model(images[first : first + 16]), labels[first : first + 16])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    scheduler.step(epoch + 1)
    print("step", epoch + 1, flush=True)
    saver.save_checkpoint(epoch, metric=-loss.item())
weights = b"".join(value.numpy().tobytes() for value in model.state_dict().values())
print("final", hashlib.sha256(weights).hexdigest()[:12], args.epochs)
