"""Train a network of torch."""

from typing import Any


def train(network: Any, optimizer: Any, data: Any, schedule: Any = None) -> list[float]:
    """Make a step for each batch of inputs and targets, and return the losses."""
    import torch

    losses = []
    for x, y in data:
        optimizer.zero_grad()
        loss = torch.mean((network(torch.tensor(x)) - torch.tensor(y)) ** 2)
        loss.backward()
        optimizer.step()
        if schedule is not None:
            schedule.step()
        losses.append(float(loss.detach()))
    return losses
