"""PyTorch, a GAN with two optimizers, networks saved apart as in pytorch/examples dcgan."""
# requires torch

import argparse
import hashlib

import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--niter", type=int, default=40, help="number of epochs to train for")
parser.add_argument("--netG", default="", help="path to netG (to continue training)")
parser.add_argument("--netD", default="", help="path to netD (to continue training)")
parser.add_argument("--outf", default=".", help="folder to output images and model checkpoints")
opt = parser.parse_args()

torch.manual_seed(0)
real = torch.randn(512, 32)
generator = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32))
discriminator = nn.Sequential(nn.Linear(32, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))
if opt.netG:
    generator.load_state_dict(torch.load(opt.netG))
if opt.netD:
    discriminator.load_state_dict(torch.load(opt.netD))
criterion = nn.BCEWithLogitsLoss()
optimizer_d = torch.optim.Adam(discriminator.parameters(), lr=2e-4, betas=(0.5, 0.999))
optimizer_g = torch.optim.Adam(generator.parameters(), lr=2e-4, betas=(0.5, 0.999))
for epoch in range(opt.niter):
    for first in range(0, len(real), 32):
        optimizer_d.zero_grad()
        fake = generator(torch.randn(32, 8))
        loss_d = criterion(discriminator(real[first : first + 32]), torch.ones(32, 1))
        loss_d = loss_d + criterion(discriminator(fake.detach()), torch.zeros(32, 1))
        loss_d.backward()
        optimizer_d.step()
        optimizer_g.zero_grad()
        criterion(discriminator(fake), torch.ones(32, 1)).backward()
        optimizer_g.step()
    print("step", epoch, flush=True)
    torch.save(generator.state_dict(), f"{opt.outf}/generator_epoch_{epoch}.pth")
    torch.save(discriminator.state_dict(), f"{opt.outf}/discriminator_epoch_{epoch}.pth")
weights = b"".join(value.numpy().tobytes() for value in generator.state_dict().values())
print("final", hashlib.sha256(weights).hexdigest()[:12], opt.niter)
