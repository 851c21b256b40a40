"""Measurements: `python -m bench.run` runs them all, against baselines, and writes the tables."""
