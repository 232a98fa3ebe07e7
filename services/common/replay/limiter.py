"""How far producers may run ahead of learners, and the other way round."""

from __future__ import annotations

from dataclasses import dataclass

from services.common.errors import InvalidConfig


@dataclass(frozen=True)
class Limits:
    """Samples per insert, kept within bounds; after Reverb's rate limiters.

    The cursor, inserts · samples_per_insert − samples, stays within error_buffer of
    min_size · samples_per_insert. Producers wait where a chunk would take it above, learners
    where a batch would take it below. Inserts are step rows, counted for each shard on its own,
    as are the samples drawn from it.

    samples_per_insert: how often a step is sampled, on average.
    error_buffer: samples.
    min_size: steps appended before the first is sampled.

    Raises:
        InvalidConfig: when nothing could be done within these bounds.
    """

    samples_per_insert: float
    error_buffer: float
    min_size: int = 1

    def __post_init__(self) -> None:
        if not self.samples_per_insert > 0:
            raise InvalidConfig(
                f"samples_per_insert is {self.samples_per_insert}, expected more than 0"
            )
        if self.min_size < 1:
            raise InvalidConfig(f"min_size is {self.min_size}, expected at least 1")
        least = 2 * max(1.0, self.samples_per_insert)
        if self.error_buffer < least:
            raise InvalidConfig(
                f"error_buffer is {self.error_buffer}, expected at least "
                f"2 · max(1, samples_per_insert) = {least:g}"
            )

    @property
    def most(self) -> float:
        """What an append must leave the cursor at or below."""
        return self.min_size * self.samples_per_insert + self.error_buffer

    @property
    def least(self) -> float:
        """What a sample must leave the cursor at or above."""
        return self.min_size * self.samples_per_insert - self.error_buffer

    def samples_left(self, inserted: int, sampled: int) -> int:
        """How many more samples may be drawn now; 0 until `min_size` steps were inserted."""
        if inserted < self.min_size:
            return 0
        return max(0, int(inserted * self.samples_per_insert - sampled - self.least))

    def check(self, chunk_rows: int, batch_size: int, capacity: int, shards: int = 1) -> None:
        """Refuse what would come to a halt, producers and learner waiting for each other.

        Args:
            chunk_rows: most step rows appended at once.
            batch_size: most rows sampled at once.
            capacity: rows in all.
            shards: over which capacity and batches are spread.

        Raises:
            InvalidConfig: saying why.
        """
        held = capacity // shards
        if self.min_size >= held:
            raise InvalidConfig(
                f"min_size is {self.min_size}, but a ring of {held} rows never holds as many "
                "steps, for episodes' closing rows take room too: nothing would ever be sampled"
            )
        moved = chunk_rows * self.samples_per_insert
        needed = max(
            (moved + batch_size) / 2,  # else neither fits between the bounds
            moved - self.samples_per_insert,  # else min_size may lie too far within a chunk
        )
        if self.error_buffer < needed:
            raise InvalidConfig(
                f"error_buffer is {self.error_buffer:g}: a chunk of {chunk_rows} steps moves the "
                f"cursor by {moved:g} samples and a batch by {batch_size}, so that producers and "
                f"learner would wait for each other; expected at least {needed:g}"
            )
