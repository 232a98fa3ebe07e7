"""Requests that differ in nothing but the bytes of their observation.

A robot sends the same message again and again with another observation in it. To read that
message, and to find what answers it, costs more than a small model. What has been read once is
known of all that are alike: whatever stands before and after the observation is compared, and
the observation is taken from between.
"""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.message import DecodeError

from tutelage.v1 import policy_pb2 as pb

MOST_LENGTHS = 64
MOST_OF_A_LENGTH = 4
LONGEST_FRAME = 512  # bytes beside the observation
_PLAIN = {"policy", "version", "alias", "observation"}
_INVERTED = bytes(range(255, -1, -1))


class Template:
    """What requests are like: bytes before and after the observation's, and all else they say.

    request: what they say, without the observation's bytes.
    """

    __slots__ = ("_after", "_before", "_start", "_stop", "request")

    def __init__(self, request: pb.ActRequest, before: bytes, raw_bytes: int, after: bytes) -> None:
        self.request, self._before, self._after = request, before, after
        self._start, self._stop = len(before), len(before) + raw_bytes

    def fits(self, content: bytes) -> bool:
        """Whether a request as long as the first is like it."""
        return content.startswith(self._before) and content.endswith(self._after)

    def raw(self, contents: Sequence[bytes]) -> bytes:
        """The observations of requests like it, one after another."""
        start, stop = self._start, self._stop
        return b"".join([content[start:stop] for content in contents])


class Templates:
    """Templates of the requests seen last. Two threads at once may at worst learn one twice.

    Requests of many kinds, such as a hostile client's, make it forget and learn again; what it
    holds stays small.
    """

    def __init__(self) -> None:
        self._known: dict[int, list[Template]] = {}

    def find(self, content: bytes) -> Template | None:
        """What a request is like, if that is known."""
        for template in self._known.get(len(content), ()):
            if template.fits(content):
                return template
        return None

    def learn(self, request: pb.ActRequest, content: bytes) -> None:
        """Know requests like this one from now on, if they ask for no more than an action."""
        template = template_of(request, content)
        if template is None:
            return
        if len(self._known) >= MOST_LENGTHS:
            self._known.clear()
        alike = self._known.setdefault(len(content), [])
        if len(alike) == MOST_OF_A_LENGTH:
            del alike[0]
        alike.append(template)


def template_of(request: pb.ActRequest, content: bytes) -> Template | None:
    """A template of requests like this one, or None where they must be read one by one.

    That the observation's bytes stand where they were found is put to the test: with each of
    them inverted there, the request must say the same with these bytes in their place.
    """
    raw = request.observation.raw
    if not raw or len(content) - len(raw) > LONGEST_FRAME:
        return None
    if any(field.name not in _PLAIN for field, _ in request.ListFields()):
        return None
    start = content.find(raw)
    before, after = content[:start], content[start + len(raw) :]
    inverted = raw.translate(_INVERTED)
    try:
        other = pb.ActRequest.FromString(before + inverted + after)
    except DecodeError:
        return None
    if other.observation.raw != inverted:
        return None
    other.observation.raw = raw
    if other != request:
        return None
    other.observation.ClearField("raw")
    return Template(other, before, len(raw), after)
