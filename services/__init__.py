"""Tutelage platform services."""
