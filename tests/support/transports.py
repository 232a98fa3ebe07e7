"""The transports that a test is run on; the native one only where it has been built."""

from __future__ import annotations

import pytest

try:
    import tutelage_transport  # noqa: F401

    WHY_NOT = ""
except ImportError as error:
    WHY_NOT = f"the native transport has not been built: {error}"

NATIVE = pytest.param("native", marks=pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT))
TRANSPORTS = ["aio", NATIVE]
