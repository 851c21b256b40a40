"""IPv4 blocks that are not globally reachable, written out from IANA's special-purpose registry.

Source: the IANA IPv4 Special-Purpose Address Registry (RFC 6890 and its updates). Where the
registry lists more specific blocks that are reachable (192.0.0.9/32, 192.0.0.10/32), the whole
enclosing block is closed: no VM has business there. 168.63.129.16 is a public number that a cloud
answers itself inside every virtual network with instance metadata.
"""

NOT_GLOBALLY_REACHABLE = (
    (0x00000000, 8, '0.0.0.0/8 "this network", RFC 791'),
    (0x0A000000, 8, "10.0.0.0/8 private use, RFC 1918"),
    (0x64400000, 10, "100.64.0.0/10 shared address space, RFC 6598"),
    (0x7F000000, 8, "127.0.0.0/8 loopback, RFC 1122"),
    (0xA9FE0000, 16, "169.254.0.0/16 link local, RFC 3927; cloud metadata"),
    (0xA83F8110, 32, "168.63.129.16/32 a cloud's metadata address on a public number"),
    (0xAC100000, 12, "172.16.0.0/12 private use, RFC 1918"),
    (0xC0000000, 24, "192.0.0.0/24 IETF protocol assignments, RFC 6890"),
    (0xC0000200, 24, "192.0.2.0/24 documentation, RFC 5737"),
    (0xC0586300, 24, "192.88.99.0/24 deprecated 6to4 relay anycast, RFC 7526"),
    (0xC0A80000, 16, "192.168.0.0/16 private use, RFC 1918"),
    (0xC6120000, 15, "198.18.0.0/15 benchmarking, RFC 2544"),
    (0xC6336400, 24, "198.51.100.0/24 documentation, RFC 5737"),
    (0xCB007100, 24, "203.0.113.0/24 documentation, RFC 5737"),
    (0xE0000000, 4, "224.0.0.0/4 multicast, RFC 5771"),
    (0xF0000000, 4, "240.0.0.0/4 reserved, RFC 1112, and limited broadcast, RFC 919"),
)
