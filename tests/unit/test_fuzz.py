"""The fuzz targets over the kept corpus, and briefly over changes of it; `fuzz.run` goes on for longer."""

from pathlib import Path

import pytest

from fuzz import run, targets

SECONDS = 0.5


@pytest.mark.parametrize("name", targets.TARGETS)
def test_nothing_is_found_in_the_kept_corpus(name: str) -> None:
    assert run.replay(name) > 0


@pytest.mark.parametrize("name", targets.TARGETS)
def test_nothing_is_found_near_it(name: str) -> None:
    assert run.mutations(name, SECONDS, seed=1) > 0


def test_a_finding_is_raised_and_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "FOUND", tmp_path)
    monkeypatch.setitem(targets.TARGETS, "dhcp", lambda data: targets.check_to_vm(data, 0, None))
    with pytest.raises(AssertionError):
        run.mutations("dhcp", 5, seed=1)
    assert (tmp_path / "crash-dhcp").exists()


def test_the_checks_are_not_blind() -> None:
    """What the targets assert of frames that pass fails for a frame that must not."""
    stranger = bytes.fromhex("0200000000020200000000ff0806") + bytes(28)
    with pytest.raises(AssertionError):
        targets.check_from_vm(stranger, 0, None)
    with pytest.raises(AssertionError):
        targets.check_to_vm(stranger, 0, None)
    with pytest.raises(AssertionError):
        targets.check_group([stranger, stranger], bytes(10) + stranger)


def test_the_corpus_reaches_joined_and_cut_frames() -> None:
    """A corpus that stopped at the first check would prove little."""
    steps = {step for data in run.corpus("coalescer") for step in run.steps_of(targets.coalescer, data)}
    steps |= {step for data in run.corpus("filter") for step in run.steps_of(targets.filter_frames, data)}
    if not any(path.endswith("offload.py") for path, _from, _to in steps):
        pytest.skip("the compiled build has no lines to trace")
    assert sum(path.endswith("offload.py") for path, _from, _to in steps) > 100
    assert sum(path.endswith("filter.py") for path, _from, _to in steps) > 100
