"""References and peers that the tests and the benchmarks compare the optimizer with."""
