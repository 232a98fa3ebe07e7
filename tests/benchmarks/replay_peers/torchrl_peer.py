"""TorchRL's replay: `torchrl_peer.py ram`, or `torchrl_peer.py redis PORT`."""

from __future__ import annotations

import sys

import torch
from rounds import serve_rounds
from tensordict import TensorDict
from torchrl.data import LazyTensorStorage, StoreStorage, TensorDictReplayBuffer

torch.set_num_threads(1)
CHUNK = 1024


def rows(count: int) -> TensorDict:
    return TensorDict(
        {
            "observation": torch.randn(count, 4),
            "action": torch.zeros(count, dtype=torch.int64),
            "reward": torch.zeros(count),
            "terminated": torch.zeros(count, dtype=torch.bool),
            "next_observation": torch.randn(count, 4),
        },
        [count],
    )


def main() -> None:
    in_redis = sys.argv[1] == "redis"
    if in_redis:
        storage = StoreStorage(100_000, backend="redis", port=int(sys.argv[2]))
    else:
        storage = LazyTensorStorage(100_000)
    buffer = TensorDictReplayBuffer(storage=storage, batch_size=256)
    chunk = rows(CHUNK)
    serve_rounds(lambda: buffer.extend(chunk), CHUNK, 20, buffer.sample, 40 if in_redis else 500)


if __name__ == "__main__":
    main()
