"""What a tracked decision is known by."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass

_DECISION = re.compile(r"([0-9a-f]{16})\.([a-z0-9][a-z0-9_-]*)")


@dataclass(frozen=True, slots=True)
class DecisionId:
    """What a decision is kept under, and whose it is; any replica reads that from it.

    number: 16 hexadecimal digits that no other decision has, below 2^63.
    """

    number: str
    policy: str

    def __str__(self) -> str:
        return f"{self.number}.{self.policy}"

    @classmethod
    def draw(cls, policy: str) -> DecisionId:
        """A new one."""
        return cls(f"{secrets.randbits(63):016x}", policy)

    @classmethod
    def parse(cls, text: str) -> DecisionId | None:
        """What `str` made; None when it is nothing that Act could have answered."""
        found = _DECISION.fullmatch(text)
        return cls(*found.groups()) if found else None
