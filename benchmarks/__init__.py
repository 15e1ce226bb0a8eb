"""Fits of `nlsq_sklearn` beside those of other programs, and beside the limits of the machine.

``python -m benchmarks`` measures everything; ``docs/benchmarks.md`` says how to read it.
"""
