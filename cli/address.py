"""Where a server listens: of mm serve and mm demo."""

import socket


def bound(host: str, port: int) -> socket.socket:
    """A socket of a host's address and a port, 0 for a free one. Raises ValueError where it is taken or unknown."""
    found = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, port))
    except OSError as error:
        found.close()
        raise ValueError(f"cannot listen at --host {host} --port {port}: {error.strerror or error}") from error
    return found


def url_of(listening: socket.socket, host: str) -> str:
    """As a browser takes it."""
    return f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"
