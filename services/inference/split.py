"""Calls for `stable` that a canary answers in its place."""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

from services.common.errors import InvalidInput
from services.inference.carried import digest_of
from services.inference.interface import is_changed

if TYPE_CHECKING:
    from services.inference.versions import PolicyState, ServedVersion

STABLE, CANARY, SHADOW = "stable", "canary", "shadow"
SHARING = (CANARY, SHADOW)


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """A share of the calls for the canary, the others for the stable version."""

    policy: str
    stable: ServedVersion
    canary: ServedVersion
    share: float

    def choose(self, session: str, carried: bytes = b"") -> ServedVersion:
        """The version that answers; of one session always the same.

        Args:
            carried: a recurrent policy's state: without a session, that of which it is goes on.
        """
        if carried and not session:
            digest = digest_of(carried)
            for served in (self.canary, self.stable):
                if served.manifest.sha256 == digest:
                    return served
        at = place(self.policy, session) if session else random.random()
        return self.canary if at < self.share else self.stable


def check_share(alias: str, share: float) -> None:
    """Refuse what is no share, or is of an alias that has none.

    Raises:
        InvalidInput: with what was expected.
    """
    if alias not in SHARING:
        raise InvalidInput(
            f"alias {alias!r} has no share of the calls; expected {' or '.join(SHARING)}"
        )
    if not 0 <= share <= 1:
        raise InvalidInput(f"share is {share}, expected a number from 0 to 1")


def place(policy: str, session: str) -> float:
    """Where in [0, 1) a session stands among those of a policy: the same on any replica.

    A share that grows keeps who is in it.
    """
    digest = blake2b(f"{policy}/{session}".encode(), digest_size=7).digest()
    return int.from_bytes(digest) / (1 << 56)


def split_of(state: PolicyState, stopped: Collection[tuple[str, int]]) -> Split | None:
    """How a policy's calls are shared out, if they are.

    Args:
        stopped: canaries, by policy and version, that must not answer.
    """
    stable, canary = state.serving.get(STABLE), state.serving.get(CANARY)
    share = state.aliases[CANARY].share if CANARY in state.aliases else 0.0
    if not share or stable is None or canary is None or canary is stable:
        return None
    version = canary.manifest.version
    if version == stable.manifest.version or (state.name, version) in stopped:
        return None
    if is_changed(canary.spec, stable.spec):
        return None
    return Split(state.name, stable, canary, share)
