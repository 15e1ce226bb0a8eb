"""Fits of every kind, killed in every way: ``python -m tests.chaos --rounds 500``."""
