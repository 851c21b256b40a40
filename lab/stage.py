"""The network around a VM: a host, its LAN, the internet and a cloud's metadata service.

                    192.168.77.0/24                                1.1.1.1, 8.8.8.8
    VMs -- host ------------------------ lan (a switch) ------------ internet
            |      .10                   .20 (a machine)   .1 (router, DNS server)
            '-- cloud 169.254.169.254

Each is a network namespace with a web server on every address. The host routes, and even honours
source routes (the worst case). `arrivals` tells where frames with a given token turned up, read
from packet sockets: a place counts what it received, whatever the VM says.

`Stage` knows no VM. Those are in `lab.worlds`.
"""

import http.server
import selectors
import socket
import socketserver
import threading
from contextlib import ExitStack

from lab.netns import Namespace

LAN_HOST = "192.168.77.20"
ROUTER = "192.168.77.1"
HOST = "192.168.77.10"
INTERNET = "1.1.1.1"
METADATA = "169.254.169.254"
DOMAIN = "example.com"
HTTP_PORT, DNS_PORT = 80, 53

ETH_P_ALL = 3
SO_RCVBUFFORCE = 33
CAPTURE_BUFFER = 4 << 20
MAX_KEPT = 10_000

Capture = tuple[str, socket.socket, list[str]]


class Stage:
    """The four places, their servers, and the record of what arrived where."""

    def __init__(self, token_prefix: bytes) -> None:
        self._prefix = token_prefix
        self._seen: list[tuple[str, bytes]] = []
        self._ignored = ["lo", "lan0", "cloud0"]
        self._undo = ExitStack()
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def _build(self) -> None:
        self.host, self.lan, self.internet, self.cloud = (
            self._namespace(name) for name in ("host", "lan", "internet", "cloud")
        )
        self._cables()
        for namespace in (self.lan, self.internet, self.cloud):
            self._serve(namespace, HTTP_PORT, Page)
        self._serve(self.internet, DNS_PORT, Names)
        self._capture()

    def _namespace(self, name: str) -> Namespace:
        namespace = Namespace(name)
        self._undo.callback(namespace.close)
        return namespace

    def _cables(self) -> None:
        self.lan.ip("link add switch type bridge", "link set switch up", f"addr add {LAN_HOST}/24 dev switch")
        self.lan.link_to("to-host", self.host, "lan0")
        self.lan.link_to("to-internet", self.internet, "eth0")
        self.lan.ip("link set to-host master switch", "link set to-internet master switch")
        self.lan.ip(f"route add default via {ROUTER}")
        self.internet.ip(
            f"addr add {ROUTER}/24 dev eth0", f"addr add {INTERNET}/32 dev lo", "addr add 8.8.8.8/32 dev lo"
        )
        self.cloud.link_to("eth0", self.host, "cloud0")
        self.cloud.ip(f"addr add {METADATA}/30 dev eth0", "route add default via 169.254.169.253")
        self.host.ip(
            f"addr add {HOST}/24 dev lan0",
            f"route add default via {ROUTER}",
            "addr add 169.254.169.253/30 dev cloud0",
        )
        for name in ("ip_forward", "conf.all.accept_source_route", "conf.lan0.accept_source_route"):
            self.host.sysctl(f"net.ipv4.{name}", 1)
        self.lan.sysctl("net.ipv4.conf.all.accept_source_route", 1)

    def _serve(self, namespace: Namespace, port: int, handler: type[socketserver.BaseRequestHandler]) -> None:
        kind = socketserver.UDPServer if port == DNS_PORT else http.server.ThreadingHTTPServer
        with namespace.entered():
            server = kind(("0.0.0.0", port), handler)
        self._undo.callback(server.server_close)
        self._undo.callback(server.shutdown)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()

    def _capture(self) -> None:
        """Packet sockets: all interfaces of the host but those of its own networks, and all else."""
        places: list[Capture] = [
            ("host", packet_socket(self.host), self._ignored),
            ("LAN", packet_socket(self.lan), ["lo", "to-host", "to-internet"]),
            ("internet", packet_socket(self.internet), ["lo"]),
            ("metadata", packet_socket(self.cloud), ["lo"]),
        ]
        selector = selectors.DefaultSelector()
        for place in places:
            self._undo.callback(place[1].close)
            selector.register(place[1], selectors.EVENT_READ, place)
        wake, self._end = socket.socketpair()
        selector.register(wake, selectors.EVENT_READ, None)
        thread = threading.Thread(target=self._record, args=(selector,), daemon=True)
        self._undo.callback(thread.join)
        self._undo.callback(self._end.close)
        thread.start()

    def _record(self, selector: selectors.BaseSelector) -> None:
        """The capturing thread: keeps what carries a token and was received, not sent."""
        while True:
            for key, _ in selector.select():
                if key.data is None:
                    return
                name, tap, ignored = key.data
                frame, address = tap.recvfrom(65536)
                received = address[2] != socket.PACKET_OUTGOING and address[0] not in ignored
                if received and self._prefix in frame and len(self._seen) < MAX_KEPT:
                    self._seen.append((name, frame))

    def ignore_on_host(self, interface: str) -> None:
        """A bridge port, where frames come in but do not arrive."""
        self._ignored.append(interface)

    def arrivals(self, token: bytes) -> list[str]:
        """The places where a frame with `token` was received so far, without repetition."""
        return list(dict.fromkeys(name for name, frame in self._seen if token in frame))

    def close(self) -> None:
        self._undo.close()


def packet_socket(namespace: Namespace) -> socket.socket:
    """Every frame on every interface that is in the namespace, or comes into it."""
    with namespace.entered():
        tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    tap.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, CAPTURE_BUFFER)
    return tap


def content(length: int) -> bytes:
    """Bytes in which a missing, doubled or swapped part shows."""
    return b"".join(number.to_bytes(4) for number in range(-(-length // 4)))[:length]


class Page(http.server.BaseHTTPRequestHandler):
    """Any page there is; `/bytes/N` is N bytes long."""

    def do_GET(self) -> None:
        _, _, count = self.path.partition("/bytes/")
        body = content(int(count)) if count.isdigit() else b"hello\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: what arrived is read from the wire."""


class Names(socketserver.BaseRequestHandler):
    """A DNS server for which every name is the stand-in for the internet (RFC 1035, A records)."""

    def handle(self) -> None:
        query, server = self.request
        end = query.index(b"\0", 12) + 5
        wants_address = query[end - 4 : end] == b"\0\1\0\1"
        answer = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + socket.inet_aton(INTERNET)
        counts = bytes((0, 1, 0, wants_address, 0, 0, 0, 0))
        reply = query[:2] + b"\x81\x80" + counts + query[12:end] + answer * wants_address
        server.sendto(reply, self.client_address)
