"""Benchmarks: loading and official scoring, one file each."""
