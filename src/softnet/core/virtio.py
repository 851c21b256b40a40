"""The numbers of `struct virtio_net_hdr` (virtio 1.2, 5.1.6), as a TAP with IFF_VNET_HDR has it.

Ten bytes before each frame: flags, gso_type, then four 16-bit little-endian fields: hdr_len, gso_size,
csum_start, csum_offset. The last two count from the frame's first byte and from csum_start.
"""

VIRTIO_HEADER = 10

NEEDS_CSUM = 1

GSO_NONE = 0
GSO_TCPV4 = 1
GSO_ECN = 0x80
