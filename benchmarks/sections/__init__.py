"""The sections of the benchmarks: each measures one thing, judges it, and writes its tables."""
