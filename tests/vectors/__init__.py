"""The corpus: frames with the verdict that docs/spec.md gives them, as data (see docs/testing.md)."""
