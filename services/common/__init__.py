"""What every service shares: wire and policy types, replay, registry, settings, gRPC bootstrap."""
