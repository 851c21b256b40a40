"""Fuzzing: `python -m fuzz.run` feeds what a hostile VM or network may send to whatever reads it."""
