"""Processes that train one network together, as ``torchrun`` starts them."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from torch import nn

__all__ = ["Ranks"]


@dataclass(frozen=True)
class Ranks:
    """The processes that train together."""

    rank: int = 0
    count: int = 1

    @classmethod
    def from_environment(cls, device: torch.device) -> Ranks:
        """Join the others, if ``torchrun`` started several."""
        count = int(os.environ.get("WORLD_SIZE", 1))
        if count == 1:
            return cls()
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        return cls(torch.distributed.get_rank(), count)

    def shared(self, model: nn.Module, device: torch.device) -> nn.Module:
        """Return the model as all processes train it."""
        if self.count == 1:
            return model
        devices = [device] if device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(model, device_ids=devices)

    def agreed(self, wish: bool, device: torch.device) -> bool:
        """Return whether any process wishes it."""
        if self.count == 1:
            return wish
        votes = torch.tensor(float(wish), device=device)
        torch.distributed.all_reduce(votes)
        return bool(votes > 0)

    def of_first(self, number: float, device: torch.device) -> float:
        """Return the first process's number."""
        if self.count == 1:
            return number
        told = torch.tensor(number, dtype=torch.float32, device=device)
        torch.distributed.broadcast(told, 0)
        return float(told)
