"""How long a model's runs take: what the warm-up measured, put right by the runs since.

A warm-up on a machine that is busy just then finds a model slower than it is, and a slow model
is run in another thread, which is the slower way for one that is quick.
"""

from __future__ import annotations

_UP = 1.01  # at most, a run; so that a few that were held up do not count


class Pace:
    """Seconds by the number of rows, in a straight line.

    It follows a faster run at once, and slower ones little by little: it is about the time of
    the quickest runs. Of runs in several threads at once some may not count.

    Args:
        first_s: of a run of one row. row_s: of each row more.
    """

    def __init__(self, first_s: float, row_s: float) -> None:
        self._first_s, self._row_s, self._scale = first_s, row_s, 1.0

    def of(self, rows: int) -> float:
        """Seconds that a run of so many rows takes."""
        return self._scale * (self._first_s + (rows - 1) * self._row_s)

    def took(self, rows: int, seconds: float) -> None:
        """A run of so many rows took so long."""
        self._scale *= min(_UP, seconds / self.of(rows))
