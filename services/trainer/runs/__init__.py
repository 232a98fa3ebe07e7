"""Runs: their folders, their history, what executes them, and the queue."""
