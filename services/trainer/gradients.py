"""What is done to gradients before a step, in few calls."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def clip_norm_(parameters: Sequence[Tensor], most: float) -> Tensor:
    """Scale all gradients so that their norm together is at most `most`; returns it before."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    torch._foreach_mul_(gradients, (most / (norm + 1e-6)).clamp(max=1.0))
    return norm
