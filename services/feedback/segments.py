"""Segments: what may be kept, how they are named, on which side of the fit they are."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from services.common import clips
from services.common.errors import InvalidInput, NotFound
from services.common.registry.registry import check_name
from services.feedback.schema import ID_LENGTH, Segment, Split

MAX_STEPS = 10_000
MAX_CLIP_BYTES = 3 << 20  # a reply must stay below the 4 MiB that gRPC clients take
MAX_ARRAY_BYTES = 16 << 20
MAX_EPISODE_ID = 128
MAX_FRAMES_PER_S = 1000
MAX_UPLOAD = 256  # segments in one call
_INT64 = 1 << 63


@dataclass(frozen=True)
class NewSegment:
    """A segment as it was uploaded, checked on construction.

    observations: `(length, *observation_shape)` float32; actions: `(length,)` int64; rewards:
    `(length,)` float32; all little-endian bytes. clip: H.264 MP4 of `length` frames.

    Raises:
        InvalidInput: naming the field that does not fit, and what was expected.
    """

    policy: str
    policy_version: int
    episode_id: str
    start_step: int
    length: int
    observation_shape: tuple[int, ...]
    observations: bytes
    actions: bytes
    rewards: bytes
    clip: bytes
    frames_per_s: float

    def __post_init__(self) -> None:
        check_name(self.policy, "segment: policy name")
        if not 1 <= len(self.episode_id) <= MAX_EPISODE_ID:
            raise InvalidInput(f"segment: episode_id must have 1 to {MAX_EPISODE_ID} characters")
        _check_range("length", self.length, 1, MAX_STEPS)
        _check_range("policy_version", self.policy_version, 0, _INT64 - 1)
        _check_range("start_step", self.start_step, 0, _INT64 - 1)
        if not 0 < self.frames_per_s <= MAX_FRAMES_PER_S:
            raise InvalidInput(
                f"segment: frames_per_s is {self.frames_per_s}, "
                f"expected over 0 and up to {MAX_FRAMES_PER_S}"
            )
        self._check_arrays()
        self._check_clip()

    @cached_property
    def segment_id(self) -> str:
        """Digest of everything but the clip, which encoders do not repeat bit for bit."""
        header = [self.policy, self.policy_version, self.episode_id, self.start_step]
        header += [self.length, list(self.observation_shape), self.frames_per_s]
        digest = hashlib.sha256(json.dumps(header, ensure_ascii=False).encode())
        for array in (self.observations, self.actions, self.rewards):
            digest.update(array)
        return digest.hexdigest()[:ID_LENGTH]

    def _check_arrays(self) -> None:
        if any(axis < 1 for axis in self.observation_shape):
            raise InvalidInput(
                f"segment: observation_shape is {list(self.observation_shape)}, "
                "expected positive lengths"
            )
        size = self.length * math.prod(self.observation_shape)
        _check_bytes("observations", self.observations, size, "<f4", self.observation_shape)
        _check_bytes("actions", self.actions, self.length, "<i8")
        _check_bytes("rewards", self.rewards, self.length, "<f4")
        _check_finite("observations", self.observations)
        _check_finite("rewards", self.rewards)
        actions = np.frombuffer(self.actions, "<i8")
        if actions.min() < 0:
            raise InvalidInput(
                f"segment: action {actions.min()} at step {int(actions.argmin())}, "
                "expected indices from 0"
            )

    def _check_clip(self) -> None:
        if not 1 <= len(self.clip) <= MAX_CLIP_BYTES:
            raise InvalidInput(
                f"segment: the clip has {len(self.clip)} bytes, expected 1 to {MAX_CLIP_BYTES}"
            )
        try:
            info = clips.probe(self.clip)
        except InvalidInput as error:
            raise InvalidInput(f"segment: {error}") from None
        if info.codec != clips.CODEC:
            raise InvalidInput(f"segment: the clip is {info.codec} video, expected {clips.CODEC}")
        if info.frames != self.length:
            raise InvalidInput(
                f"segment: the clip has {info.frames} frames, expected one for each of "
                f"{self.length} steps"
            )


def _check_range(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise InvalidInput(f"segment: {name} is {value}, expected {low} to {high}")


def _check_bytes(
    name: str, array: bytes, size: int, dtype: str, shape: tuple[int, ...] = ()
) -> None:
    expected = size * np.dtype(dtype).itemsize
    if len(array) != expected:
        each = f" of shape {list(shape)}" if shape else ""
        raise InvalidInput(
            f"segment: {name} has {len(array)} bytes, expected {expected}: "
            f"{np.dtype(dtype).name}{each} for each step"
        )
    if expected > MAX_ARRAY_BYTES:
        raise InvalidInput(
            f"segment: {name} has {expected} bytes, expected at most {MAX_ARRAY_BYTES}"
        )


def _check_finite(name: str, array: bytes) -> None:
    finite = np.isfinite(np.frombuffer(array, "<f4"))
    if not finite.all():
        raise InvalidInput(
            f"segment: {name} has NaN or infinity at element {int(np.flatnonzero(~finite)[0])}, "
            "expected finite numbers"
        )


def split_of(policy: str, episode_id: str, held_out_share: float, episodes: Counter[str]) -> Split:
    """The side of a new episode: by hash, as long as the held-out ones stay at their share,
    rounded up or down. Left to chance, a task with few episodes may come to have none.

    Args:
        episodes: of the policy on either side so far.
    """
    wanted = held_out_share * (episodes.total() + 1)
    if episodes[Split.HELD_OUT] < math.floor(wanted):
        return Split.HELD_OUT
    if episodes[Split.HELD_OUT] >= math.ceil(wanted):
        return Split.TRAIN
    digest = hashlib.sha256(f"{policy}\0{episode_id}".encode()).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    return Split.HELD_OUT if position < held_out_share else Split.TRAIN


def new_ones(session: Session, uploaded: Sequence[NewSegment]) -> list[NewSegment]:
    """Those that are not stored yet, each once.

    Raises:
        InvalidInput: when observations are not shaped as the policy's others are.
    """
    ids = [segment.segment_id for segment in uploaded]
    query = select(Segment.segment_id).where(Segment.segment_id.in_(ids))
    known = set(session.scalars(query))
    new = {s.segment_id: s for s in uploaded if s.segment_id not in known}
    shapes = {policy: _shape_of(session, policy) for policy in {s.policy for s in new.values()}}
    for segment in new.values():
        shape = shapes[segment.policy] = shapes[segment.policy] or segment.observation_shape
        if segment.observation_shape != shape:
            raise InvalidInput(
                f"segment: observation_shape is {list(segment.observation_shape)}, expected "
                f"{list(shape)} as of the other segments of {segment.policy!r}"
            )
    return list(new.values())


def _shape_of(session: Session, policy: str) -> tuple[int, ...] | None:
    query = select(Segment.observation_shape).where(Segment.policy == policy).limit(1)
    shape = session.scalar(query)
    return None if shape is None else tuple(shape)


def add(session: Session, uploaded: Sequence[NewSegment], held_out_share: float) -> int:
    """Insert those that are not there yet; their clips are stored already.

    Returns:
        How many were new.

    Raises:
        InvalidInput: as `new_ones`.
    """
    new = new_ones(session, uploaded)
    for segment in new:
        session.add(_row(session, segment, held_out_share))
    return len(new)


def _row(session: Session, segment: NewSegment, held_out_share: float) -> Segment:
    # An episode stays on its side when the share is set anew.
    of_same_episode = select(Segment.split).where(
        Segment.policy == segment.policy, Segment.episode_id == segment.episode_id
    )
    split = session.scalar(of_same_episode.limit(1))
    if split is None:
        episodes = _episodes(session, segment.policy)
        split = split_of(segment.policy, segment.episode_id, held_out_share, episodes)
    return Segment(
        segment_id=segment.segment_id,
        policy=segment.policy,
        policy_version=segment.policy_version,
        episode_id=segment.episode_id,
        start_step=segment.start_step,
        length=segment.length,
        observation_shape=list(segment.observation_shape),
        observations=segment.observations,
        actions=segment.actions,
        rewards=segment.rewards,
        frames_per_s=segment.frames_per_s,
        clip_sha256=hashlib.sha256(segment.clip).hexdigest(),
        split=split,
    )


def _episodes(session: Session, policy: str) -> Counter[str]:
    """How many episodes are on either side."""
    counted = select(Segment.split, func.count(Segment.episode_id.distinct())).where(
        Segment.policy == policy
    )
    return Counter(dict(session.execute(counted.group_by(Segment.split)).all()))


def get(session: Session, segment_id: str) -> Segment:
    """A segment.

    Raises:
        NotFound: when there is none of this id.
    """
    row = session.get(Segment, segment_id)
    if row is None:
        raise NotFound(f"no segment {segment_id!r}")
    return row


def get_many(session: Session, segment_ids: Sequence[str]) -> list[Segment]:
    """Stored segments of these ids, in no particular order."""
    return list(session.scalars(select(Segment).where(Segment.segment_id.in_(segment_ids))))


def only_policy(session: Session, policy: str) -> str:
    """The policy named, or the only one there is; empty when there is none.

    Raises:
        InvalidInput: when none is named and there are several.
    """
    if policy:
        return check_name(policy, "policy name")
    known = sorted(session.scalars(select(Segment.policy).distinct()))
    if len(known) > 1:
        raise InvalidInput(f"policy is empty and there are several, name one: {', '.join(known)}")
    return known[0] if known else ""
