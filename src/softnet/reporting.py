"""Error reports to Sentry: off unless SENTRY_DSN is set and `softnet[sentry]` (sentry-sdk 2) is there.

`start` sets it up before privileges are dropped, so that a failure to open the network is reported too;
it starts no thread and opens no connection, and without SENTRY_DSN it imports nothing. `report` sends one
error and waits for it, within a bound, from whatever is left of the process by then.

What leaves the machine is built from a list of what may: where in the code, which kind of error, the
release, and the tags of CIRRUS_SENTRY_TAGS (`key=value,key=value`). No local variables, no
breadcrumbs; and no message of an error that may quote a packet, which leaves the messages
that Softnet itself wrote and those of the operating system.
"""

import os
from importlib import import_module
from typing import Any

from softnet import __version__
from softnet.errors import ConfigError

DSN = "SENTRY_DSN"
TAGS = "CIRRUS_SENTRY_TAGS"
SEND_SECONDS = 2.0

ABOUT = ("event_id", "timestamp", "level", "platform", "sdk")
EVENT_KEYS = (*ABOUT, "release", "environment", "server_name", "tags")
FRAME_KEYS = ("filename", "abs_path", "function", "module", "lineno", "in_app")
ERROR_KEYS = ("type", "module", "mechanism")

# What sending has to read when files are confined: name resolution and certificates.
FILES = (
    "/etc/resolv.conf",
    "/run/systemd/resolve",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/gai.conf",
    "/etc/ssl",
    "/etc/pki",
    "/usr/share/ca-certificates",
)

_sdk: Any = None


def start() -> bool:
    """True when errors will be reported. ConfigError for a SENTRY_DSN that is none.

    Without the package it stays off in silence: Tart, which hands us its environment, has a Sentry
    of its own.
    """
    global _sdk
    dsn = os.environ.get(DSN)
    if not dsn:
        return False
    try:
        sdk = import_module("sentry_sdk")
    except ImportError:
        return False
    try:
        sdk.init(
            dsn=dsn,
            release=f"softnet@{__version__}",
            before_send=_only_what_may_leave,
            default_integrations=False,
            auto_enabling_integrations=False,
            auto_session_tracking=False,
            enable_backpressure_handling=False,
            send_client_reports=False,
            include_local_variables=False,
            include_source_context=False,
            max_breadcrumbs=0,
            in_app_include=["softnet"],
        )
    except TypeError:
        return False  # an sdk older than 2, which does not know these options
    except ValueError as error:
        raise ConfigError(DSN, dsn, f"is not a Sentry DSN ({error})", "correct it or unset it") from None
    for key, value in tags(os.environ.get(TAGS, "")).items():
        sdk.set_tag(key, value)
    _sdk = sdk
    return True


def report(error: BaseException) -> None:
    """Send this error and wait for it, SEND_SECONDS at most. Does nothing when reports are off."""
    if _sdk is not None:
        _sdk.capture_exception(error)
        _sdk.flush(timeout=SEND_SECONDS)


def readable() -> tuple[str, ...]:
    """For `privilege.confine`: what a report still has to read."""
    return FILES if _sdk is not None else ()


def tags(text: str) -> dict[str, str]:
    """`key=value,key=value`; what is no pair is passed over, as the original does."""
    pairs = (pair.partition("=") for pair in text.split(","))
    return {key.strip(): value.strip() for key, equals, value in pairs if key.strip() and equals}


def _only_what_may_leave(event: dict[str, Any], _hint: dict[str, Any]) -> dict[str, Any]:
    errors = event.get("exception", {}).get("values", [])
    kept = {key: event[key] for key in EVENT_KEYS if key in event}
    return kept | {"exception": {"values": [_error(each) for each in errors]}}


def _error(found: dict[str, Any]) -> dict[str, Any]:
    kept = {key: found[key] for key in ERROR_KEYS if found.get(key) is not None}
    frames = (found.get("stacktrace") or {}).get("frames", [])
    places = [{key: frame[key] for key in FRAME_KEYS if key in frame} for frame in frames]
    kept["stacktrace"] = {"frames": places}
    kept["value"] = found.get("value") if _quotes_no_packet(found) else "(left out: it may quote a packet)"
    return kept


def _quotes_no_packet(found: dict[str, Any]) -> bool:
    """Softnet's own errors and the system's. Those of Python's libraries like to show their input."""
    name = str(found.get("type"))
    kind = getattr(import_module("builtins"), name, None)
    from_system = isinstance(kind, type) and issubclass(kind, OSError)
    return from_system or str(found.get("module")).startswith("softnet.")
