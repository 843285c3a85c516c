"""Frames that no scanner has an option for, one by one onto the protected link.

Every one aims at TCP port 22, which no rule allows to the sender; some spell
an allowed port where a filter that reads headers wrongly finds it.
"""

import sys

from scapy.all import (
    AH, Dot1AD, Dot1Q, Dot3, Ether, GRE, ICMP, IP, IPOption, IPv6,
    IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting, LLC, PadN, Raw, SNAP, TCP, UDP, conf, sendp,
)

interface, mac, source4, host4, source6, host6 = sys.argv[1:]
conf.verb = 0
ether = Ether(dst=mac)
v4 = IP(src=source4, dst=host4)
v6 = IPv6(src=source6, dst=host6)
syn = TCP(sport=53, dport=22, flags="S")
# What a filter takes for an allowed port if it looks at a fixed offset.
decoy = b"\x00\x50" * 20
frames = []


def add(*packets):
    frames.extend(packets)


def cut(packet, *sizes):
    """A packet's payload in pieces of these sizes, and what is left."""
    body, offset = bytes(packet), 0
    for size in [*sizes, len(body)]:
        piece = body[offset:offset + size]
        if not piece:
            return
        yield offset, piece, offset + len(piece) < len(body)
        offset += len(piece)


def fragments4(identity, packet, proto, *sizes):
    for offset, piece, more in cut(packet, *sizes):
        yield ether / IP(src=source4, dst=host4, id=identity, proto=proto,
                         flags="MF" if more else 0, frag=offset // 8) / Raw(piece)


def fragments6(identity, packet, nh, *sizes):
    for offset, piece, more in cut(packet, *sizes):
        yield ether / v6 / IPv6ExtHdrFragment(nh=nh, id=identity, m=int(more),
                                              offset=offset // 8) / Raw(piece)


def checksummed(network):
    """The transport header of a packet, as the stack would send it."""
    return bytes(network.__class__(bytes(network)).payload)


tcp4, tcp6 = checksummed(v4 / syn), checksummed(v6 / syn)

# Plain, and behind tags that Linux peels.
add(ether / v4 / syn, ether / v6 / syn)
for count in (1, 2, 4, 5, 9):
    tags = ether
    for _ in range(count):
        tags = tags / Dot1Q(vlan=0)
    add(tags / v4 / syn, tags / v6 / syn)
add(ether / Dot1AD(vlan=0) / Dot1Q(vlan=0) / v4 / syn)
# Behind a length: above an ethertype, scapy makes LLC one (0x8870).
add(Dot3(dst=mac) / LLC(dsap=0xAA, ssap=0xAA, ctrl=3) / SNAP(code=0x0800) / v4 / syn)

# Options and extension headers that spell port 80.
for words in (1, 5, 10):
    add(ether / IP(src=source4, dst=host4, options=IPOption(b"\x01\x01\x00\x50"[:2] * (words * 2))) / syn)
for chain in (
    [IPv6ExtHdrHopByHop(options=PadN(optdata=decoy[:12]))],
    [IPv6ExtHdrDestOpt(options=PadN(optdata=decoy))],
    [IPv6ExtHdrDestOpt(options=PadN(optdata=decoy[:12]))] * 3,
    [IPv6ExtHdrDestOpt()] * 8,
    [IPv6ExtHdrDestOpt()] * 9,
    [IPv6ExtHdrDestOpt()] * 40,
    [IPv6ExtHdrRouting(type=0, addresses=[host6])],
    [IPv6ExtHdrRouting(type=0, segleft=0)],
    [IPv6ExtHdrHopByHop(), IPv6ExtHdrDestOpt(), IPv6ExtHdrRouting(type=4, segleft=0)],
    [IPv6ExtHdrFragment(id=7)],
    [IPv6ExtHdrFragment(id=8), IPv6ExtHdrDestOpt(options=PadN(optdata=decoy[:12]))],
):
    packet = ether / v6
    for header in chain:
        packet = packet / header.copy()
    add(packet / syn)
add(ether / v4 / AH(icv=decoy[:12], padding=b"") / syn)
add(ether / v6 / AH(icv=decoy[:12], padding=b"") / syn)

# In pieces: tiny, in the wrong order, overlapping, never finished.
for identity, sizes in enumerate([(8,), (16,), (24,), (8, 8)], start=100):
    add(*fragments4(identity, tcp4, 6, *sizes), *fragments6(identity, tcp6, 6, *sizes))
    add(*reversed(list(fragments4(identity + 20, tcp4, 6, *sizes))))
    add(*reversed(list(fragments6(identity + 20, tcp6, 6, *sizes))))
allowed4 = checksummed(v4 / TCP(sport=53, dport=80, flags="S"))
allowed6 = checksummed(v6 / TCP(sport=53, dport=80, flags="S"))
for identity, (good, bad, pieces, nh) in enumerate(
    [(allowed4, tcp4, fragments4, 6), (allowed6, tcp6, fragments6, 6)], start=200
):
    # An allowed first piece, then a first piece again that is not.
    add(list(pieces(identity, good, nh, 16))[0], *pieces(identity, bad, nh, 16))
    # The other way round, and with the last piece in front.
    forbidden = list(pieces(identity + 10, bad, nh, 16))
    add(forbidden[1], forbidden[0], list(pieces(identity + 10, good, nh, 16))[0])
    # A later piece that writes over the allowed port.
    over = list(pieces(identity + 20, good, nh, 16))[0]
    add(over, *[piece for piece in list(pieces(identity + 20, bad, nh, 8))[1:]])

# In tunnels, and as what replies look like.
add(ether / v4 / IP(src=source4, dst=host4) / syn, ether / v4 / IPv6(src=source6, dst=host6) / syn)
add(ether / v6 / IPv6(src=source6, dst=host6) / syn, ether / v4 / GRE() / v4 / syn)
add(ether / v4 / UDP(sport=53, dport=5353) / Raw(b"reply"), ether / v6 / UDP(sport=123, dport=123) / Raw(b"reply"))
for flags in ("A", "SA", "R", "F", "FA", "", "FPU", "SF", "SR", "FSRPAUEC"):
    add(ether / v4 / TCP(sport=443, dport=22, flags=flags), ether / v6 / TCP(sport=443, dport=22, flags=flags))

# Every protocol, with an allowed port where ports would be.
for proto in range(256):
    if proto not in (1, 6, 17, 58):
        add(ether / IP(src=source4, dst=host4, proto=proto) / Raw(decoy))
    if proto not in (0, 6, 17, 43, 44, 51, 58, 60):
        add(ether / IPv6(src=source6, dst=host6, nh=proto) / Raw(decoy))
for kind in (0, 4, 5, 8, 9, 10, 13, 15, 17):
    add(ether / v4 / ICMP(type=kind))

# Cut at every byte, with lengths that stay as they were.
for packet in (ether / v4 / syn, ether / v6 / syn):
    whole = bytes(packet)
    add(*[Raw(whole[:size]) for size in range(15, len(whole))])

sendp(frames, iface=interface)
print(len(frames))
