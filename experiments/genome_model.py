"""A small Hyena model that predicts the next base of a genome: data, model and training step.

    known, held_out = split("ecoli")
    model = GenomeModel(length=1024)
    step = training(model, steps)
    losses = [step(sample(known, 8, 1024, generator)) for _ in range(steps)]

It needs PyTorch (pip install 'fftconv[torch]').
"""

import fftconv.torch
import genome
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


def split(name, held_out=0.05):
    """The genome `name` in two parts, the last of which is not trained on: int64 codes 0 ... 3.

    held_out: the share of the second part.
    """
    codes = torch.from_numpy(genome.load(name).astype(np.int64))
    return codes.split([len(codes) - round(held_out * len(codes)), round(held_out * len(codes))])


def sample(codes, batch, length, generator):
    """Stretches of length + 1 bases that begin at random places: (batch, length + 1)."""
    begin = torch.randint(len(codes) - length, (batch, 1), generator=generator)
    return codes[begin + torch.arange(length + 1)]


class Block(nn.Module):
    """x + mixer(norm(x)), then x + mlp(norm(x)), for x (B, L, channels)."""

    def __init__(self, channels, length):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        # Sines of a high initial frequency w can make filters that change from tap to tap.
        self.mixer = fftconv.torch.hyena.HyenaOperator(
            channels, length, emb_dim=33, w=10, lr_pos_emb=0.0
        )
        self.mlp = nn.Sequential(
            nn.Linear(channels, 2 * channels), nn.GELU(), nn.Linear(2 * channels, channels)
        )

    def forward(self, x):
        x = x + self.mixer(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class GenomeModel(nn.Module):
    """Codes (B, L), L <= length, to logits (B, L, 4): at each place those of the next base."""

    def __init__(self, channels=64, length=1024, blocks=1):
        super().__init__()
        self.embedding = nn.Embedding(len(genome.BASES), channels)
        self.blocks = nn.Sequential(*(Block(channels, length) for _ in range(blocks)))
        self.norm, self.head = nn.LayerNorm(channels), nn.Linear(channels, len(genome.BASES))

    def forward(self, codes):
        return self.head(self.norm(self.blocks(self.embedding(codes))))


def losses(model, stretches):
    """The cross entropy of every base but the first, in nats: (B, L) of stretches (B, L + 1)."""
    logits = model(stretches[:, :-1])
    return F.cross_entropy(logits.mT, stretches[:, 1:], reduction="none")


def training(model, steps, rate=3e-3):
    """A function that takes one of `steps` training steps with stretches (B, L + 1).

    It returns the loss in nats per base.  The learning rate of AdamW rises to `rate` during the
    first tenth of the steps, and then falls to zero.
    """
    optimizer = torch.optim.AdamW(model.parameters(), rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda n: min(10 * (n + 1) / steps, 1 - n / steps)
    )

    def step(stretches):
        loss = losses(model, stretches).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        return loss.item()

    return step
