"""The harness of the benchmarks: it measures the right thing and hides nothing. No timings."""
