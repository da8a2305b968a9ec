"""Bytes of a URL: data URLs, and on demand http(s), only from public addresses.

    scheme, host, port ── resolved ── every address public? ── connected to that address ── redirect: all over again

The checked address is the one that is connected to, so a name that later resolves to a private address is no risk. No
proxies, cookies or credentials are used.
"""

import base64
import binascii
import ipaddress
import re
import socket
import ssl
import threading
import time
from http.client import HTTPConnection, HTTPException, HTTPResponse
from urllib.parse import SplitResult, urljoin, urlsplit

from .limits import MediaDecodeError, check_bytes

MAX_URL_BYTES = 32_000_000
TIMEOUT = 10.0
MAX_REDIRECTS = 3
CHUNK = 2**16
REDIRECTS = (301, 302, 303, 307, 308)
# Addresses that stand for others: what they stand for may be private.
EMBEDDING_NETWORKS = [
    ipaddress.ip_network(name) for name in ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32")
]

_DATA_URL = re.compile(r"data:(?P<type>[^;,]*)(?P<parameters>(?:;[^;,]*)*),(?P<data>.*)", re.S)


def is_url(text: str) -> bool:
    return re.match(r"(data:|[a-zA-Z][a-zA-Z0-9+.-]*://)", text) is not None


def read_data_url(url: str, max_bytes: int) -> bytes:
    """What a base64 data URL of an image holds. Raises MediaDecodeError for others, and for more than `max_bytes`."""
    parts = _DATA_URL.fullmatch(url)
    if parts is None or not parts["parameters"].endswith(";base64"):
        raise MediaDecodeError(f"data URLs are data:image/...;base64,...; got {url[:40]!r}")
    if not parts["type"].startswith("image/"):
        raise MediaDecodeError(f"its type is {parts['type'][:40]!r}; accepted are data:image/...;base64,...")
    text = parts["data"]
    check_bytes(len(text) * 3 // 4 - 2, max_bytes)
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as fault:
        raise MediaDecodeError(f"its base64 text is broken: {fault}") from fault


def fetch(url: str, max_bytes: int = MAX_URL_BYTES, timeout: float = TIMEOUT) -> bytes:
    """The body of an http or https URL.

    Args:
        max_bytes: more than this raises, whether it was announced or not.
        timeout: seconds for everything together, redirects included.

    Raises:
        MediaDecodeError: a URL or an address that is not accepted, an answer other than 200, a fault on the way.
    """
    deadline = time.monotonic() + timeout
    for _ in range(MAX_REDIRECTS + 1):
        found = _request(url, max_bytes, deadline)
        if isinstance(found, bytes):
            return found
        url = urljoin(url, found)
    raise MediaDecodeError(f"it redirects more than {MAX_REDIRECTS} times")


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet, and stands for no other address."""
    ip = ipaddress.ip_address(address.split("%")[0])
    mapped = getattr(ip, "ipv4_mapped", None)
    if mapped is not None:
        ip = mapped
    if any(ip.version == network.version and ip in network for network in EMBEDDING_NETWORKS):
        return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_private or ip.is_loopback)


def _request(url: str, max_bytes: int, deadline: float) -> bytes | str:
    """The body, or the place that a redirect names."""
    parts = _checked(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    host = parts.hostname or ""
    sock = None
    try:
        sock = socket.create_connection((_public_address(host, port), port), timeout=_left(deadline))
        # Whatever trickles in slowly ends at the deadline: reading fails on a socket that was shut down.
        timer = threading.Timer(_left(deadline), _shut_down, [sock])
        timer.daemon = True
        timer.start()
        try:
            return _exchange(sock, parts, host, port, max_bytes, deadline)
        finally:
            timer.cancel()
    except (OSError, HTTPException, ValueError) as fault:
        if isinstance(fault, MediaDecodeError):
            raise
        if time.monotonic() >= deadline:
            raise MediaDecodeError("the time for it is over") from fault
        raise MediaDecodeError(f"fetching it failed ({type(fault).__name__}: {fault})") from fault
    finally:
        if sock is not None:
            sock.close()


def _exchange(
    sock: socket.socket, parts: SplitResult, host: str, port: int, max_bytes: int, deadline: float
) -> bytes | str:
    if parts.scheme == "https":
        sock = ssl.create_default_context().wrap_socket(sock, server_hostname=host)
    connection = HTTPConnection(host, port)
    connection.sock = sock
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    connection.request("GET", target, headers={"Accept": "image/*", "Accept-Encoding": "identity"})
    with connection.getresponse() as response:
        if response.status in REDIRECTS and response.headers.get("Location"):
            return response.headers["Location"]
        if response.status != 200:
            raise MediaDecodeError(f"the server answers {response.status} {response.reason[:80]}")
        return _body(response, max_bytes, deadline)


def _body(response: HTTPResponse, max_bytes: int, deadline: float) -> bytes:
    if (response.length or 0) > max_bytes:
        check_bytes(response.length or 0, max_bytes)
    chunks, size = [], 0
    while chunk := response.read1(CHUNK):
        size += len(chunk)
        check_bytes(size, max_bytes)
        chunks.append(chunk)
    _left(deadline)  # a socket that was shut down looks like one that has ended
    if response.length:
        raise MediaDecodeError(f"the connection ended {response.length} bytes early")
    return b"".join(chunks)


def _checked(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port  # it is parsed, and checked, when it is read
    except ValueError as fault:
        raise MediaDecodeError(f"it is no URL ({fault})") from fault
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise MediaDecodeError(f"accepted are http:// and https:// with a host; got {url[:80]!r}")
    if parts.username is not None or parts.password is not None:
        raise MediaDecodeError("it holds a user name or a password")
    if not url.isascii() or any(ord(letter) <= 32 or ord(letter) == 127 for letter in url):
        raise MediaDecodeError("it holds characters that stand in no URL; quote them")
    return parts


def _public_address(host: str, port: int) -> str:
    """An address of `host`. Raises MediaDecodeError where any of its addresses is not public."""
    found = [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    private = [address for address in found if not is_public(address)]
    if private or not found:
        raise MediaDecodeError(f"{host} is at {', '.join(private) or 'no address'}; only public addresses are fetched")
    return found[0]


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise MediaDecodeError("the time for it is over")
    return left


def _shut_down(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it is closed already
