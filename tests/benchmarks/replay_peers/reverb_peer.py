"""Reverb: a server in this process, one item a row, batches through its dataset.

reverb_peer.py PORT
"""

from __future__ import annotations

import sys

import numpy as np
import reverb
import tensorflow as tf
from rounds import serve_rounds

CHUNK = 1024
SIGNATURE = {
    "observation": tf.TensorSpec((4,), tf.float32),
    "action": tf.TensorSpec((), tf.int64),
    "reward": tf.TensorSpec((), tf.float32),
    "terminated": tf.TensorSpec((), tf.bool),
    "next_observation": tf.TensorSpec((4,), tf.float32),
}
ROW = {key: np.zeros(spec.shape, spec.dtype.as_numpy_dtype) for key, spec in SIGNATURE.items()}


def main() -> None:
    port = int(sys.argv[1])
    table = reverb.Table(
        "rows",
        sampler=reverb.selectors.Uniform(),
        remover=reverb.selectors.Fifo(),
        max_size=100_000,
        rate_limiter=reverb.rate_limiters.MinSize(1),
        signature=SIGNATURE,
    )
    server = reverb.Server([table], port=port)
    address = f"localhost:{port}"
    client = reverb.Client(address)

    def insert() -> None:
        with client.trajectory_writer(num_keep_alive_refs=1) as writer:
            for _ in range(CHUNK):
                writer.append(ROW)
                writer.create_item("rows", 1.0, {k: v[-1] for k, v in writer.history.items()})
            writer.flush()

    insert()
    dataset = reverb.TrajectoryDataset.from_table_signature(
        address, "rows", max_in_flight_samples_per_worker=512
    )
    batches = iter(dataset.batch(256))
    serve_rounds(insert, CHUNK, 4, lambda: next(batches), 60)
    server.stop()


if __name__ == "__main__":
    main()
