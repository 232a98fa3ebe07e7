from collections.abc import Callable, Mapping, Sequence

class Call:
    """A call that was taken. Dropped without an answer, it ends as INTERNAL."""

    @property
    def id(self) -> int:
        """What its events go by, until the last."""

    @property
    def method(self) -> str:
        """Its full name."""

    @property
    def content(self) -> bytes:
        """The message; empty of a stream."""

    @property
    def arrived(self) -> float:
        """When the message was there, as time.monotonic() has it."""

    @property
    def deadline(self) -> float:
        """When the caller stops waiting, likewise; infinity for never, now once it is over."""

    @property
    def metadata(self) -> list[tuple[str, str | bytes]]:
        """What the caller sent beside the message; nothing once the call is over."""

    @property
    def peer(self) -> str:
        """The caller's address; empty once the call is over."""

    def cancelled(self) -> bool:
        """Whether nobody waits for an answer any more, or it was given."""

    def answer(self, reply: object) -> None:
        """Hand a reply to the function that the server was given for it."""

    def read(self) -> None:
        """Ask a stream for its next message, which comes as an event. One at a time."""

    def write(self, content: bytes) -> None:
        """Send a stream's message; the next one after the event that tells it is written."""

    def finish(self, code: int, message: str, details: bytes) -> None:
        """End the call with a status, and a serialized google.rpc.Status beside it, or b""."""

class Server:
    """Listens from the moment it is made.

    methods: full names, and how each is handed over: 0 in batches by `take`, 1 as an event, 2
        as a stream of events. Others are UNIMPLEMENTED.
    arguments: gRPC's channel arguments.
    answer: called by `Call.answer` with the call and its reply.
    handle: called with calls as `take` gives them, from threads of the server's own, while the
        thread that takes is idle: it need not be woken for a call that comes alone. Never at the
        same time as itself, or as that thread is between two takes. None: all wait for that.
    most_calls, most_bytes: what may wait to be taken; more is RESOURCE_EXHAUSTED at once.
    certificate, key, client_authority: PEM. Without the first there is no TLS; with the last,
        clients must show a certificate that it signed.

    Raises:
        RuntimeError: when the address cannot be had.
    """

    def __init__(
        self,
        address: str,
        *,
        methods: Mapping[str, int],
        arguments: Mapping[str, int],
        answer: Callable[[Call, object], None],
        most_calls: int,
        most_bytes: int,
        handle: Callable[[list[Call]], None] | None = None,
        certificate: bytes = b"",
        key: bytes = b"",
        client_authority: bytes = b"",
    ) -> None: ...
    @property
    def port(self) -> int: ...
    @property
    def open(self) -> int:
        """Calls that tell events and are not over."""

    @property
    def refused(self) -> int:
        """Calls that there was no room for, so far."""

    @property
    def dropped(self) -> int:
        """Calls whose callers had left before they were taken, so far."""

    def take(self, most: int) -> list[Call]:
        """Wait for calls, and take all there are up to so many. None: the server has stopped.

        For one thread.
        """

    def events(self) -> list[tuple[int, int, Call | bytes | None]]:
        """Wait for events: what happened, the call's id, and with it

        0 the call itself, which came in; 1 a message that was read; 2 nothing, for there are no
        more messages; 3 nothing, for what was written is on its way; 4 nothing, for the call is
        over and no more is heard of it. None: the server has stopped.
        """

    def reply(
        self, calls: Sequence[Call], replies: Sequence[bytes | tuple[int, str, bytes] | None]
    ) -> None:
        """Answer calls: with a message, or with code, message and details as in `finish`.

        None leaves a call open. What is over already is passed by.
        """

    def shutdown(self, grace_s: float) -> None:
        """Take no new calls, cancel what is not over in time, then stop. Blocks until then.

        To be called before the interpreter ends.
        """
