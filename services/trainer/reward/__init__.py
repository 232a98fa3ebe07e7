"""Reward models: what people prefer, as a number for each step."""
