"""States that clients carry: what comes back whole, and what is refused."""

from __future__ import annotations

import struct
import zlib
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_policies import CARTPOLE

from services.common.errors import InvalidInput
from services.common.registry import Evaluation, PolicyManifest
from services.common.spec import StatePart
from services.inference.carried import CarriedStates, digest_of

SPEC = CARTPOLE.model_copy(update={"state": (StatePart(input="h", output="n", shape=(2, 3)),)})
STATES = np.arange(12, dtype=np.float32).reshape(2, 6)


def carried(policy: str = "cartpole", digest: str = "a" * 64) -> CarriedStates:
    manifest = PolicyManifest(
        policy=policy,
        version=1,
        spec=SPEC,
        algorithm="dqn",
        run_id="test",
        env_steps=0,
        evaluation=Evaluation(episodes=0, mean_return=0, min_return=0, max_return=0),
        sha256=digest,
        published_at=datetime.now(UTC),
    )
    return CarriedStates(manifest)


def resealed(content: bytes, at: int, put: bytes) -> bytes:
    """With other bytes at a place, and a checksum that fits."""
    body = content[:at] + put + content[at + len(put) : -4]
    return body + struct.pack("<I", zlib.crc32(body))


def test_states_come_back_whole() -> None:
    content = carried().pack(STATES)
    assert np.array_equal(carried().unpack(content, 2), STATES)
    assert digest_of(content) == "a" * 64


def test_states_of_another_version_do_not_count() -> None:
    assert carried(digest="b" * 64).unpack(carried().pack(STATES), 2) is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no state", "damaged"),
        (b"", "damaged"),
        (carried().pack(STATES)[:-1], "damaged"),
        (carried().pack(STATES) + b"\0", "damaged"),
        (carried(policy="lander").pack(STATES), "not of the policy 'cartpole'"),
        (carried().pack(STATES[:1]), "of 1 rows, expected 2"),
        (carried().pack(STATES[:, :5]), "holds 40 bytes of numbers, expected 48"),
        (carried().pack(STATES * np.float32(np.nan)), "not finite"),
        (carried().pack(np.where(STATES == 3, np.float32(np.inf), STATES)), "not finite"),
        (resealed(carried().pack(STATES), 0, b"\2"), "format 2, expected 1"),
    ],
)
def test_what_is_no_state_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        carried().unpack(content, 2)


@given(at=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_no_bit_of_it_may_change(at: int, bit: int) -> None:
    content = bytearray(carried().pack(STATES))
    content[at % len(content)] ^= 1 << bit
    with pytest.raises(InvalidInput, match="damaged"):
        carried().unpack(bytes(content), 2)


@given(content=st.binary(max_size=120))
def test_any_bytes_are_refused_and_break_nothing(content: bytes) -> None:
    digest_of(content)
    with pytest.raises(InvalidInput):
        carried().unpack(content, 1)
