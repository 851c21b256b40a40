"""Writes the corpus beside itself: `PYTHONPATH=tests python -m vectors.generate`.

Deterministic: a test generates it again and compares (`tests/unit/test_vectors.py`).
"""

import json
from pathlib import Path

from vectors import dhcp, from_vm, sequences, to_vm, world

SECTIONS = (
    world.states,
    from_vm.ethernets,
    from_vm.arps,
    from_vm.ipv4s,
    from_vm.destinations,
    from_vm.fragments,
    dhcp.carriers,
    dhcp.messages,
    to_vm.inbound,
    to_vm.cuts,
    sequences.getting,
    sequences.ignoring,
    sequences.keeping,
    sequences.bounds,
)


def files() -> dict[str, str]:
    """The name and text of every file of the corpus."""
    corpus = world.Corpus()
    for section in SECTIONS:
        section(corpus)
    return {
        f"{name}.jsonl": "".join(f"{json.dumps(entry)}\n" for entry in entries)
        for name, entries in corpus.files.items()
    }


def main() -> None:
    for name, text in files().items():
        Path(__file__).with_name(name).write_text(text)


if __name__ == "__main__":
    main()
