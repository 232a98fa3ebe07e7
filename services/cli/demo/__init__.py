"""`tutelage demo`: the four journeys, unattended, on a platform of its own."""

from services.cli.demo.command import demo

__all__ = ["demo"]
