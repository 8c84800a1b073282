"""The ears and the mouth of the packet capture test; standard library only, as root on Linux.

    capture.py sniff INTERFACE ADDRESS
        writes one JSON line for each IP packet that ADDRESS sends out, until its input ends
    capture.py ask
        reads a JSON array of requests ({"method", "url", "token", "body", "headers", "source"}),
        makes each, and writes the array of statuses (0: no answer)
    capture.py listen ADDRESS PORT...
        writes one JSON line for each connection that somebody makes, until its input ends
"""

import http.client
import json
import select
import socket
import ssl
import struct
import sys
import urllib.parse

ETH_P_ALL = 3
SYN, ACK = 0x02, 0x10


def say(**what) -> None:
    print(json.dumps(what), flush=True)


def packet(frame: bytes, own: bytes) -> None:
    kind = struct.unpack("!H", frame[12:14])[0]
    if kind == 0x86DD:
        to, header = frame[38:54], frame[20]
        # Behind the hop-by-hop options stands what they are for.
        header = frame[54] if header == 0 else header
        # Who is on the cable the kernels ask by themselves; it never leaves it (RFC 4861, RFC 3810).
        if header == socket.IPPROTO_ICMPV6 and to.startswith(b"\xff\x02"):
            return
        say(protocol="ipv6", to=socket.inet_ntop(socket.AF_INET6, to), port=0, begins=True)
        return
    ip = frame[14:]
    if kind != 0x0800 or ip[12:16] != own:
        return
    to, protocol, body = socket.inet_ntoa(ip[16:20]), ip[9], ip[(ip[0] & 15) * 4 :]
    if protocol == socket.IPPROTO_TCP:
        source, port = struct.unpack("!HH", body[:4])
        begins = body[13] & (SYN | ACK) == SYN
        say(protocol="tcp", to=to, port=port, source=source, begins=begins)
    elif protocol == socket.IPPROTO_UDP:
        source, port = struct.unpack("!HH", body[:4])
        text = "".join(chr(b) if 32 <= b < 127 else "." for b in body[8:])
        say(protocol="udp", to=to, port=port, source=source, begins=True, text=text)
    else:
        say(protocol=str(protocol), to=to, port=0, begins=True)


def sniff(interface: str, address: str) -> None:
    own = socket.inet_aton(address)
    sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    sniffer.bind((interface, 0))
    say(ready=True)
    while True:
        readable, _, _ = select.select([sniffer, sys.stdin], [], [])
        if sniffer in readable:
            packet(sniffer.recv(65_535), own)
        elif not sys.stdin.readline():
            return


def status(request: dict) -> int:
    url = urllib.parse.urlsplit(request["url"])
    source = (request["source"], 0) if request.get("source") else None
    if url.scheme == "https":
        # Whom we speak to is not what is tried here; that nobody comes back is.
        trusting = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection(
            url.netloc, timeout=90, source_address=source, context=trusting
        )
    else:
        connection = http.client.HTTPConnection(url.netloc, timeout=90, source_address=source)
    headers = dict(request.get("headers") or {})
    if request.get("token"):
        headers["Authorization"] = "Bearer " + request["token"]
    body = request.get("body")
    path = url.path + ("?" + url.query if url.query else "")
    try:
        connection.request(
            request["method"], path, None if body is None else json.dumps(body), headers
        )
        answer = connection.getresponse()
        answer.read()
        return answer.status
    except OSError as error:
        print(request["url"], error, file=sys.stderr)
        return 0


def listen(address: str, ports: list[str]) -> None:
    ears = []
    for port in ports:
        ear = socket.socket()
        ear.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        ear.bind((address, int(port)))
        ear.listen()
        ears.append(ear)
    say(ready=True)
    while True:
        readable, _, _ = select.select([*ears, sys.stdin], [], [])
        for ear in readable:
            if ear is sys.stdin:
                if not sys.stdin.readline():
                    return
                continue
            connection, peer = ear.accept()
            connection.close()
            say(peer=peer[0], port=ear.getsockname()[1])


def main() -> None:
    match sys.argv[1:]:
        case ["sniff", interface, address]:
            sniff(interface, address)
        case ["ask"]:
            print(json.dumps([status(request) for request in json.load(sys.stdin)]))
        case ["listen", address, *ports]:
            listen(address, ports)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
