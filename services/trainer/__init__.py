"""Trains policies and publishes them. The only service that imports torch."""
