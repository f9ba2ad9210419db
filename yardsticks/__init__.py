"""What the optimizer is held against, for the tests and the benchmarks alike."""
