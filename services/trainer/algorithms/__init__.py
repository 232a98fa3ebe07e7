"""Learners, one a file: each turns batches into better parameters."""
