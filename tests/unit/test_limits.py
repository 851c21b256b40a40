"""What `--rate` says: every way to say it, and every way to say it wrong."""

import re
from pathlib import Path

import pytest

from softnet.cli import options
from softnet.config import Settings
from softnet.errors import ConfigError
from softnet.limits import DEFAULT_BURST, Limit, Rates, add_rate


def parsed(*texts: str) -> Rates:
    rates = Rates()
    for text in texts:
        rates = add_rate(rates, text)
    return rates


@pytest.mark.parametrize(
    ("text", "limit", "spelled"),
    [
        ("100mbit", Limit(100_000_000), "100mbit,burst=100ms"),
        ("64000bit", Limit(64_000), "64kbit,burst=100ms"),
        ("64kbit", Limit(64_000), "64kbit,burst=100ms"),
        ("1.5mbit", Limit(1_500_000), "1500kbit,burst=100ms"),
        ("100gbit", Limit(10**11), "100gbit,burst=100ms"),
        ("0.1gbit", Limit(10**8), "100mbit,burst=100ms"),
        ("10pps", Limit(0, 10), "10pps,burst=100ms"),
        ("2.5kpps", Limit(0, 2500), "2500pps,burst=100ms"),
        ("100mpps", Limit(0, 10**8), "100mpps,burst=100ms"),
        ("20mbit,5kpps,burst=50ms", Limit(20_000_000, 5000, 0.05), "20mbit,5kpps,burst=50ms"),
        ("burst=7.5ms,5kpps,20mbit", Limit(20_000_000, 5000, 0.0075), "20mbit,5kpps,burst=7.5ms"),
        ("1mbit,burst=5ms", Limit(10**6, 0, 0.005), "1mbit,burst=5ms"),
        ("1mbit,burst=10s", Limit(10**6, 0, 10.0), "1mbit,burst=10000ms"),
    ],
)
def test_a_limit(text: str, limit: Limit, spelled: str) -> None:
    assert parsed(text) == (limit, limit)
    assert parsed(f"from-vm:{text}") == (limit, None)
    assert parsed(f"to-vm:{text}") == (None, limit)
    assert str(limit) == spelled
    assert parsed(spelled) == (limit, limit), "what is shown can be given"


def test_each_direction_has_its_own() -> None:
    one, other = Limit(20_000_000, 5000, 0.05), Limit(1_000_000_000)
    assert parsed("from-vm:20mbit,5kpps,burst=50ms", "to-vm:1gbit") == (one, other)
    assert parsed("to-vm:1gbit", "from-vm:20mbit,5kpps,burst=50ms") == (one, other)


MISTAKES = [
    *(
        ((text,), f"{text!r} is neither a bit rate (bit, kbit, mbit, gbit) nor a packet rate")
        for text in ("", "100", "100mb", "100mbps", "100MBIT", "5kpackets", "100mbit/s", "mbit ")
    ),
    *(
        ((text,), f"{text!r} is not a number with a unit (kbit, mbit, gbit, bit)")
        for text in (
            "mbit",
            "-1mbit",
            "+1mbit",
            "1e3mbit",
            ".5mbit",
            "1.mbit",
            "1.2.3mbit",
            "1_0mbit",
            "xbit",
            "100Mbit",
            "rate=5mbit",
        )
    ),
    *(
        ((text,), f"{text!r} is not a number with a unit (kpps, mpps, pps)")
        for text in ("pps", "0x10pps", "1 kpps", "infpps", "nanpps", "\u0663kpps", "9" * 17 + "pps")
    ),
    *(((text,), f"{text!r} is not from 64kbit to 100gbit") for text in ("0bit", "63999bit", "101gbit")),
    *(((text,), f"{text!r} is not from 10pps to 100mpps") for text in ("0pps", "9pps", "101mpps")),
    *(
        ((f"1mbit,burst={text}",), f"the burst {text!r} is not from 5ms to 10s")
        for text in ("0ms", "4.9ms", "10.1s", "1000000ms")
    ),
    *(
        ((f"1mbit,burst={text}",), f"{text!r} is not a number with a unit (ms, s)")
        for text in ("", "5", "ms", "5us", "50kb", "-5ms")
    ),
    (("burst=50ms",), "a burst without a bit rate or a packet rate limits nothing"),
    (("1mbit,2mbit",), "has two bit rates"),
    (("20pps,1kpps",), "has two packet rates"),
    (("1mbit,burst=5ms,burst=6ms",), "has two bursts"),
    (("1mbit,",), "'' is neither"),
    (("from-vm:",), "'' is neither"),
    (("vm:1mbit",), "the direction 'vm' is neither from-vm nor to-vm"),
    ((":1mbit",), "the direction '' is neither from-vm nor to-vm"),
    (("from-vm:to-vm:1mbit",), "'to-vm:1mbit' is not a number"),
    (("1mbit", "2mbit"), "from-vm has a rate already, 1mbit,burst=100ms"),
    (("1mbit", "to-vm:2mbit"), "to-vm has a rate already, 1mbit,burst=100ms"),
    (("from-vm:1mbit", "1kpps"), "from-vm has a rate already"),
    (("to-vm:1mbit", "from-vm:1mbit", "to-vm:1kpps"), "to-vm has a rate already"),
]


@pytest.mark.parametrize(("texts", "problem"), MISTAKES)
def test_mistakes(texts: tuple[str, ...], problem: str) -> None:
    parsed(*texts[:-1])
    with pytest.raises(ValueError, match=re.escape(problem)):
        parsed(*texts)


def settings(*words: str) -> Settings:
    parser = options.new_parser("softnet", "", "")
    options.add_network_options(parser)
    return options.settings_from(parser.parse_args(["--uplink", "fd=3", *words]), 2)


@pytest.mark.parametrize(("texts", "problem"), MISTAKES)
def test_a_mistake_names_option_value_and_remedy(texts: tuple[str, ...], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(*(f"--rate={text}" for text in texts))
    line = str(caught.value)
    assert line.startswith(f"--rate {texts[-1]!r}: ")
    assert problem in line
    assert line.endswith("; write for example 20mbit or from-vm:20mbit,5kpps,burst=50ms")


def test_the_option_replaces_what_a_policy_file_says(tmp_path: Path) -> None:
    file = tmp_path / "vm.toml"
    file.write_text('version = 1\nrate = "1mbit"\n')
    assert settings("--policy", str(file)).rates == (Limit(10**6), Limit(10**6))
    assert settings("--policy", str(file), "--rate", "to-vm:1gbit").rates == (None, Limit(10**9))


def test_settings() -> None:
    assert settings().rates == (None, None)
    both = settings("--rate", "from-vm:1mbit", "--rate", "to-vm:1kpps").rates
    assert both == (Limit(10**6), Limit(0, 1000, DEFAULT_BURST))
