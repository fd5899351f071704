# Packets by hand. Each carries a word by which the receiving end knows it.
import struct

TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58
SYN, ACK, RST, PSH = 2, 16, 4, 8
PROTECTED, OTHER = '10.9.8.7', '10.9.8.8'
PROTECTED6, OTHER6 = 'fd00:9::7', 'fd00:9::8'
SERVER = bytes.fromhex('020000090807')

def aton(address): return socket.inet_pton(socket.AF_INET6 if ':' in address else socket.AF_INET, address)

def checksum(data):
    data += b'\0' * (len(data) % 2)
    total = sum(struct.unpack('!%dH' % (len(data) // 2), data))
    while total >> 16: total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff

def pseudo(source, to, protocol, length):
    if ':' in to: return aton(source) + aton(to) + struct.pack('!IxxxB', length, protocol)
    return aton(source) + aton(to) + struct.pack('!BBH', 0, protocol, length)

def own(to): return 'fd00:9::2' if ':' in to else '10.9.8.2'

def tcp(to, word, flags=SYN, port=5432, source_port=4444, seq=1, ack=0, source=None):
    t = struct.pack('!HHIIBBHHH', source_port, port, seq, ack, 5 << 4, flags, 65535, 0, 0) + word
    return t[:16] + struct.pack('!H', checksum(pseudo(source or own(to), to, TCP, len(t)) + t)) + t[18:]

def udp(to, word, port=5432):
    return struct.pack('!HHHH', 4444, port, 8 + len(word), 0) + word

def ip4(to, protocol, payload, options=b'', fragment=0, source='10.9.8.2'):
    options += b'\0' * (-len(options) % 4)
    length = 20 + len(options)
    head = struct.pack('!BBHHHBBH4s4s', 0x40 | length // 4, 0, length + len(payload), 7, fragment, 64, protocol, 0,
                       aton(source), aton(to)) + options
    return head[:10] + struct.pack('!H', checksum(head)) + head[12:] + payload

def ip6(to, protocol, payload, hops=64, source='fd00:9::2'):
    return struct.pack('!IHBB', 6 << 28, len(payload), protocol, hops) + aton(source) + aton(to) + payload

def extended(kinds, protocol, payload):
    "The payload behind extension headers of these kinds, and the first one's kind."
    for kind in reversed(kinds):
        if kind == 44: payload = struct.pack('!BBHI', protocol, 0, 0, 7) + payload
        elif kind == 43: payload = struct.pack('!BBBBI', protocol, 0, 4, 0, 0) + payload
        else: payload = struct.pack('!BBBB4x', protocol, 0, 1, 4) + payload
        protocol = kind
    return protocol, payload

def ether(packet, kind=None, tags=b''):
    kind = kind or (0x86dd if packet[0] >> 4 == 6 else 0x0800)
    return SERVER + b'\2\0\0\0\0\2' + tags + struct.pack('!H', kind) + packet

SOL_PACKET, PACKET_QDISC_BYPASS = 263, 20
def packet_socket(bypass=False, kind=socket.SOCK_RAW):
    s = socket.socket(socket.AF_PACKET, kind, 0)
    if bypass: s.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
    s.bind(('eth0', 0))
    return s

def dgram6(to, word, option, value):
    "A datagram behind the extension header that a socket's option asks for."
    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    s.setsockopt(socket.IPPROTO_IPV6, option, value)
    s.sendto(word, (to, 5432))

def raw(to, protocol, payload):
    s = socket.socket(socket.AF_INET6 if ':' in to else socket.AF_INET, socket.SOCK_RAW, protocol)
    s.sendto(payload, (to, 0))

def attempts(cases):
    "Each case to what is protected and then to what isn't, told by the errors."
    for name, (call, *addresses) in cases.items():
        outcomes = []
        for label, to in zip(('protected', 'other'), addresses):
            word = ('<%s %s>' % (label, name)).encode()
            outcomes.append(str(told(lambda: call(to, word) and None)))
        print(name, *outcomes)
