"""torch.multiprocessing.spawn, DDP with gloo and 2 ranks."""
# requires torch

import argparse
import hashlib
import os

import torch
from torch import distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

EPOCHS = 24


def train(rank, world_size, resume):
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = "127.0.0.1", "29561"
    distributed.init_process_group("gloo", rank=rank, world_size=world_size)
    torch.manual_seed(0)
    x = torch.randn(512, 64)
    data = torch.utils.data.TensorDataset(x, (x.sum(1) > 0).long())
    sampler = torch.utils.data.DistributedSampler(data)
    loader = torch.utils.data.DataLoader(data, batch_size=32, sampler=sampler)
    model = DistributedDataParallel(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2)))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    start = 0
    if resume:
        checkpoint = torch.load(resume)
        start = checkpoint["epoch"]
        model.module.load_state_dict(checkpoint["model"])
        optimizer.load_state_dict(checkpoint["optimizer"])
    for epoch in range(start, EPOCHS):
        sampler.set_epoch(epoch)
        for inputs, labels in loader:
            loss = nn.functional.cross_entropy(model(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if rank == 0:
            print("step", epoch + 1, flush=True)
            if (epoch + 1) % 6 == 0:
                state = {"epoch": epoch + 1, "model": model.module.state_dict(), "optimizer": optimizer.state_dict()}
                torch.save(state, "checkpoint.pt")
        distributed.barrier()
    if rank == 0:
        weights = b"".join(value.numpy().tobytes() for value in model.module.state_dict().values())
        print("final", hashlib.sha256(weights).hexdigest()[:12], EPOCHS, flush=True)
    distributed.destroy_process_group()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--resume", help="a checkpoint to continue from")
    multiprocessing.spawn(train, args=(2, parser.parse_args().resume), nprocs=2)
