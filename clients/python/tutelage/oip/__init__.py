"""Protocols of others, as far as the platform answers them."""
