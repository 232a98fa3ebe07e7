"""Requests that differ in their observation's bytes alone are told apart from all others."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inference.templates import MOST_LENGTHS, MOST_OF_A_LENGTH, Templates, template_of
from tutelage.v1 import policy_pb2 as pb
from tutelage.v1.array_pb2 import DTYPE_FLOAT32, Array

NAMES = st.text("ab\x10\x12\x00é", max_size=4)
RAWS = st.binary(min_size=16, max_size=16)


def request(raw: bytes, policy: str = "cartpole", **fields: object) -> pb.ActRequest:
    array = Array(raw=raw, dtype=DTYPE_FLOAT32, shape=[4])
    return pb.ActRequest(policy=policy, observation=array, **fields)


def content(raw: bytes, **fields: object) -> bytes:
    serialized: bytes = request(raw, **fields).SerializeToString()
    return serialized


def learnt(first: pb.ActRequest, serialized: bytes | None = None) -> Templates:
    templates = Templates()
    templates.learn(first, first.SerializeToString() if serialized is None else serialized)
    return templates


@given(first=RAWS, other=RAWS, policy=NAMES, alias=NAMES, version=st.integers(0, 1 << 40))
def test_what_is_like_a_request_says_the_same_with_other_bytes(
    first: bytes, other: bytes, policy: str, alias: str, version: int
) -> None:
    said = {"policy": policy, "alias": alias, "version": version}
    later = content(other, **said)

    template = learnt(request(first, **said)).find(later)

    if template is None:  # the bytes stand elsewhere too, such as in a name
        assert first in content(bytes(range(100, 116)), **said) or first[:1] == first[-1:]
        return
    assert template.raw([later, later]) == other + other
    read = pb.ActRequest()
    read.CopyFrom(template.request)
    read.observation.raw = other
    assert read == pb.ActRequest.FromString(later)


@given(raw=RAWS, junk=st.binary(max_size=60))
def test_no_other_request_is_taken_for_one_like_it(raw: bytes, junk: bytes) -> None:
    templates = learnt(request(raw))
    template = templates.find(junk)
    assert template is None or pb.ActRequest.FromString(junk).policy == "cartpole"


def test_requests_of_another_policy_or_shape_are_not_like_it() -> None:
    templates = learnt(request(bytes(16)))

    assert templates.find(content(bytes(16))) is not None
    assert templates.find(content(bytes(16), policy="carthole")) is None
    assert templates.find(content(bytes(12))) is None


@pytest.mark.parametrize(
    "asked",
    [
        {"selection": pb.ACTION_SELECTION_SAMPLE},
        {"session": "robot"},
        {"action_mask": [True, False]},
        {"include_probabilities": True},
        {"seed": 0},
        {"track": True},
    ],
)
def test_requests_that_ask_for_more_are_read_one_by_one(asked: dict[str, object]) -> None:
    first = request(b"0123456789abcdef", **asked)
    assert template_of(first, first.SerializeToString()) is None


def test_bytes_that_stand_elsewhere_too_are_not_taken_for_the_observation() -> None:
    in_the_name = request(b"cart", policy="cart")
    assert template_of(in_the_name, in_the_name.SerializeToString()) is None

    twice = content(b"0123456789abcdef") * 2  # of which the second counts
    assert template_of(pb.ActRequest.FromString(twice), twice) is None


def test_what_is_known_stays_small() -> None:
    templates = Templates()
    for length in range(1, 3 * MOST_LENGTHS):
        templates.learn(*_both(request(bytes(4 * length))))
    known = [templates.find(content(bytes(4 * n))) for n in range(1, 3 * MOST_LENGTHS)]
    assert 0 < sum(one is not None for one in known) <= MOST_LENGTHS

    names = [f"policy-{i}" for i in range(MOST_OF_A_LENGTH + 1)]
    for name in names:
        templates.learn(*_both(request(bytes(16), policy=name)))
    found = [templates.find(content(bytes(16), policy=name)) is not None for name in names]
    assert found == [False] + [True] * MOST_OF_A_LENGTH


def test_a_frame_with_as_much_beside_it_as_in_it_is_read_one_by_one() -> None:
    wordy = request(np.zeros(4, np.float32).tobytes(), alias="a" * 600)
    assert template_of(wordy, wordy.SerializeToString()) is None


def _both(asked: pb.ActRequest) -> tuple[pb.ActRequest, bytes]:
    return asked, asked.SerializeToString()
