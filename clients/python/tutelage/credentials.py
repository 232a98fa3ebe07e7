"""How a service is reached where not everyone may: TLS, and a token that says who calls."""

from __future__ import annotations

from dataclasses import dataclass, field

import grpc

from tutelage.errors import InvalidConfig


@dataclass(frozen=True)
class Credentials:
    """What a client trusts, and what it shows.

    token: sent with each call as `authorization: Bearer <token>`; "": none. Without TLS everyone
        on the way can read it.
    tls: whether the connection is by TLS; so it is also where one of the following is given.
    authority: certificates in PEM that the service's must be signed by; b"": the system's.
    certificate, key: the client's own in PEM, for mutual TLS; b"": none.

    Raises:
        InvalidConfig: when the certificate comes without the key, or the key without it.
    """

    token: str = field(default="", repr=False)
    tls: bool = False
    authority: bytes = field(default=b"", repr=False)
    certificate: bytes = field(default=b"", repr=False)
    key: bytes = field(default=b"", repr=False)

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if bool(self.certificate) != bool(self.key):
            raise InvalidConfig("a client's certificate needs its key, and the key the certificate")

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with each call."""
        return (("authorization", f"Bearer {self.token}"),) if self.token else ()

    def channel_credentials(self) -> grpc.ChannelCredentials | None:
        """What gRPC wants to connect by TLS; None where it is to connect without."""
        if not (self.tls or self.authority or self.certificate):
            return None
        return grpc.ssl_channel_credentials(
            self.authority or None, self.key or None, self.certificate or None
        )
