"""Where decisions and outcomes lie among Redis's keys, and the replay that they end up in."""

from __future__ import annotations


def outcomes_replay(policy: str) -> str:
    """The name of the replay of what a policy's clients met."""
    return f"{policy}.outcomes"


def keys(policy: str) -> list[str]:
    """The keys of a policy's decisions, which lie on one node of a cluster; see `scripts`."""
    prefix = f"tutelage:outcomes:{{{policy}}}:"
    return [f"{prefix}{part}" for part in ("decisions", "waiting", "joined")]
