"""A recurrent policy's state as its clients carry it: opaque bytes, checked when they come back."""

from __future__ import annotations

import struct
import zlib
from hashlib import blake2b

import numpy as np

from services.common.errors import InvalidInput
from services.common.registry import PolicyManifest
from services.inference.runner import States

FORMAT = 1
# Format, the policy's name as a hash, the model's SHA-256, rows; then float32 numbers, and CRC-32.
_HEAD = struct.Struct("<B8s32sI")
_CHECKSUM = struct.Struct("<I")


class CarriedStates:
    """Packs and unpacks states of one version."""

    def __init__(self, manifest: PolicyManifest) -> None:
        self._policy, self._width = manifest.policy, manifest.spec.state_size
        self._of = _hash(manifest.policy), bytes.fromhex(manifest.sha256)

    def pack(self, states: States) -> bytes:
        """States (n, state_size) as bytes."""
        content = _HEAD.pack(FORMAT, *self._of, len(states)) + states.astype("<f4").tobytes()
        return content + _CHECKSUM.pack(zlib.crc32(content))

    def unpack(self, content: bytes, rows: int) -> States | None:
        """States (rows, state_size), or None when they are of another version of the policy.

        Raises:
            InvalidInput: when they are anything else, with what was expected.
        """
        kind, policy, digest, count = _head(content)
        if kind != FORMAT:
            raise InvalidInput(f"recurrent_state is of format {kind}, expected {FORMAT}")
        if policy != self._of[0]:
            raise InvalidInput(f"recurrent_state is not of the policy {self._policy!r}")
        if count != rows:
            raise InvalidInput(f"recurrent_state is of {count} rows, expected {rows}")
        if digest != self._of[1]:
            return None
        numbers = content[_HEAD.size : -_CHECKSUM.size]
        if len(numbers) != 4 * rows * self._width:
            raise InvalidInput(
                f"recurrent_state holds {len(numbers)} bytes of numbers, expected "
                f"{4 * rows * self._width}"
            )
        states = np.frombuffer(numbers, "<f4").astype(np.float32).reshape(rows, self._width)
        if not np.isfinite(states).all():
            raise InvalidInput("recurrent_state is not finite")
        return states


def digest_of(content: bytes) -> str:
    """The SHA-256, in hex, of the model that states are of; "" where they are none."""
    return _HEAD.unpack_from(content)[2].hex() if len(content) >= _HEAD.size else ""


def _head(content: bytes) -> tuple[int, bytes, bytes, int]:
    body = content[: -_CHECKSUM.size]
    if len(body) < _HEAD.size or content[-_CHECKSUM.size :] != _CHECKSUM.pack(zlib.crc32(body)):
        raise InvalidInput(
            "recurrent_state is damaged; send what the last reply had, or nothing, to start anew"
        )
    kind, policy, digest, rows = _HEAD.unpack_from(body)
    return kind, policy, digest, rows


def _hash(policy: str) -> bytes:
    return blake2b(policy.encode(), digest_size=8).digest()
