"""Numbers that compiled modules share with everybody else.

This file is never compiled: a compiled module imports a number and its `.pxd` makes it a C integer,
while Python sees it here.
"""

# Protocols (IANA), ICMP types (RFC 792) and TCP's flags (RFC 9293 3.1).
ICMP = 1
TCP = 6
UDP = 17
ECHO_REPLY = 0
UNREACHABLE = 3
ECHO_REQUEST = 8
TIME_EXCEEDED = 11
PARAMETER_PROBLEM = 12
FIN = 0x01
SYN = 0x02
RST = 0x04
ACK = 0x10
FLAGS = 0x3F  # without ECN's two, which a SYN may carry (RFC 3168)

# Rules with ports (`softnet.core.ports`).
PORT_RULES = 256
UNDECIDED = 255
ROOT = 0xFFFFFFFF
NODES = 1 << 15
NO_PORT = 0x10000
TCP_BIT = 1
UDP_BIT = 2

# Connections (`softnet.core.flows`).
FLOWS = 32768
SYN_SECONDS = 60.0
TCP_SECONDS = 300.0
UDP_SECONDS = 30.0
ECHO_SECONDS = 30.0
CLOSE_SECONDS = 10.0
OPENED = 0
NOT_A_START = 1
FULL = 2
