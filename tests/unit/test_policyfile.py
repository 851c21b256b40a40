"""Policy files: what they say, and where exactly a mistake is."""

from contextlib import suppress
from pathlib import Path

import pytest

from softnet import policy, policyfile
from softnet.cli.options import parse_expose
from softnet.config import Expose
from softnet.core.reasons import BLOCKED, NOT_GLOBAL, PASS_GLOBAL
from softnet.errors import ConfigError
from softnet.limits import Limit, Rates
from softnet.policyfile import FileError, PolicyFile

WHOLE = """\
# what the build machines may do
version = 1
allow = ["10.0.0.0/8:443/tcp", "@dns",  # one a string
         'in @host:22']
block = ["0.0.0.0/0"]
expose = ["2222:22", "127.0.0.1:5353:53/udp"]
deny = "reject"
deny-rate = 50
rate = ["from-vm:20mbit,5kpps", 'to-vm:1gbit,burst=50ms']
"""


def parse(text: str) -> PolicyFile:
    return policyfile.parse("vm.toml", text, parse_expose)


def test_a_whole_file() -> None:
    assert parse(WHOLE) == PolicyFile(
        policy.parse(["10.0.0.0/8:443/tcp,@dns,in @host:22"], ["0.0.0.0/0"]),
        (Expose(None, 2222, 22), Expose(0x7F000001, 5353, 53, "udp")),
        "reject",
        50,
        Rates(Limit(20_000_000, 5000), Limit(10**9, 0, 0.05)),
    )


def test_one_rate_for_both_directions() -> None:
    limit = Limit(64_000)
    assert parse('version = 1\nrate = "64kbit"').rates == Rates(limit, limit)


def test_the_least_file() -> None:
    assert parse("version = 1") == PolicyFile()


@pytest.mark.parametrize(
    ("text", "place", "problem"),
    [
        ("", "1:1", "no version; write version = 1"),
        ("allow = []", "1:1", "no version"),
        ("version = 2", "1:1", "reads version 1 only"),
        ("version = true", "1:1", "reads version 1 only"),
        ('version = "1"', "1:1", "reads version 1 only"),
        ("version = 1\n  allow = 5", "2:3", "allow must be a list of strings"),
        ('version = 1\nallow = "@host"', "2:1", "allow must be a list of strings"),
        ("version = 1\nallow = [1]", "2:1", "allow must be a list of strings"),
        ('version = 1\nalow = ["@host"]', "2:1", "unknown key 'alow'; known are version, allow"),
        ("version = 1\n\n[rules]\nallow = []", "3:2", "unknown key 'rules'"),
        ('version = 1\n"odd key" = 1', "2:2", "unknown key 'odd key'"),
        ('version = 1\nallow = ["@host", "10.0.0.0/33"]', "2:19", "the prefix length '33' is not a number"),
        (
            'version = 1\nallow = [\n  "@host",  # "quoted"\n  "@hosts",\n]',
            "4:3",
            "allow '@hosts': not an IPv4",
        ),
        ('version = 1\nblock = [\'a"b\', "@host:ssh"]', "2:10", "block 'a\"b'"),
        ('version = 1\nexpose = ["1:2", "0:22"]', "2:18", "the port '0' is not a number from 1 to 65535"),
        ('version = 1\ndeny = "ignore"', "2:8", "deny must be 'drop' or 'reject'"),
        ("version = 1\ndeny-rate = 0", "2:1", "deny-rate must be a number from 1 to 10000"),
        ("version = 1\ndeny-rate = 1.5", "2:1", "deny-rate must be a number"),
        ("version = 1\nrate = 20", "2:1", "rate must be a string or a list of strings"),
        ('version = 1\nrate = ["1mbit", 20]', "2:1", "rate must be a string or a list of strings"),
        ('version = 1\nrate = "20mb"', "2:8", "rate '20mb': '20mb' is neither a bit rate"),
        ('version = 1\nrate = "63kbit"', "2:8", "'63kbit' is not from 64kbit to 100gbit"),
        (
            'version = 1\nrate = [\n  "from-vm:1mbit",  # slow\n  "2mbit",\n]',
            "4:3",
            "rate '2mbit': from-vm has a rate already, 1mbit,burst=100ms",
        ),
        ("version = 1\nallow = [", "2:10", "Invalid value"),
        ("version = 1\nversion = 1", "2:12", "Cannot overwrite a value"),
        ("version 1", "1:9", "Expected '='"),
    ],
)
def test_mistakes_say_where_they_are(text: str, place: str, problem: str) -> None:
    with pytest.raises(FileError) as caught:
        parse(text)
    assert str(caught.value).startswith(f"--policy vm.toml:{place}: ")
    assert problem in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read: No such file"):
        policyfile.read(str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="cannot read: Is a directory"):
        policyfile.read(str(tmp_path))
    (tmp_path / "latin").write_bytes(b"version = 1\n# \xe9\n")
    with pytest.raises(ConfigError, match=r"latin:2:1: not UTF-8"):
        policyfile.read(str(tmp_path / "latin"))
    (tmp_path / "large").write_bytes(b"#" * (policyfile.LARGEST_FILE + 1))
    with pytest.raises(ConfigError, match=r"large: is larger than 4194304 bytes; join its addresses into"):
        policyfile.read(str(tmp_path / "large"))


def test_a_long_list_is_read_whole_and_its_mistakes_are_found() -> None:
    """100,000 addresses, the last of them wrong, then right."""
    lines = [f'  "11.{at >> 16}.{at >> 8 & 255}.{at & 255}",' for at in range(100_000)]
    text = "\n".join(["version = 1", "block = [", *lines, "%s", "]"])
    with pytest.raises(FileError, match=r"vm.toml:100003:3: block '12.0.0.256': not an IPv4 address"):
        parse(text % '  "12.0.0.256"')
    rules = parse(text % '  "12.0.0.255"').policy.rules
    assert len(rules) == 100_001
    assert [rule.text for rule in rules.around(0x0C0000FF)] == ["12.0.0.255/32"]
    table = policy.compile_policy(policy.Policy(rules), policy.Facts())
    found = [table.lookup(0x0B000000 + at) for at in (-1, 0, 99_999, 100_000)]
    assert found == [NOT_GLOBAL, BLOCKED, BLOCKED, PASS_GLOBAL]


def test_rubbish_never_raises_anything_else() -> None:
    for end in range(len(WHOLE)):
        for text in (WHOLE[:end], WHOLE[:end] + "\0" + WHOLE[end:], WHOLE[:end] + '"' + WHOLE[end:]):
            with suppress(FileError):
                parse(text)
