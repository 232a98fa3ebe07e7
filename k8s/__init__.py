"""Manifests of the platform, and what checks them."""
