"""Connecting this process to Ray: a quiet local cluster, or one that runs already."""

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

from spaces.errors import ConfigError

CONNECT_TIMEOUT_S = 5.0
SMALLEST_STORE = 256 * 2**20
_HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_HTTP2_SETTINGS = 4

# Read by Ray when it is imported or started. Ours unless the user has set them.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # what Ray would print to standard output about dead workers
}
for _name, _value in _ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)

import ray  # noqa: E402  # reads the environment above
import ray._private.ray_constants  # noqa: E402


def connect(address: str | None, cpus: int, payload_bytes: int) -> Callable[[], None]:
    """Connect to Ray unless this process is connected already.

    Args:
        address: Of a running cluster ("host:port", "auto"); None: a local one, started here if none is.
        cpus: At least so many CPUs has a cluster that is started here.
        payload_bytes: What the object store of a cluster that is started here must hold.

    Returns:
        What undoes it: shuts down the cluster that was started here, and does nothing otherwise.

    Raises:
        ConfigError: There is no cluster at that address, or this process is connected to another one.
    """
    if ray.is_initialized():
        here = ray.get_runtime_context().gcs_address
        if address not in (None, "auto", here):
            raise ConfigError(
                f"execution.address = {address!r}, but this process is connected to Ray at {here}; "
                "close that pool first, or leave the address out"
            )
        return _nothing
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        store = max(SMALLEST_STORE, 2 * payload_bytes)
        cpus = max(cpus, os.cpu_count() or 1)
        with _own_signals(), _loopback_only():
            ray.init("local", num_cpus=cpus, object_store_memory=store, include_dashboard=False, **quiet)
        return ray.shutdown
    check_cluster(address)
    local = _loopback_only() if _only_on_loopback(address) else contextlib.nullcontext()
    try:
        with _own_signals(), local:
            ray.init(address, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"execution.address = {address!r}: no Ray cluster there: {reason}") from None
    return ray.shutdown


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Ray puts a handler of its own on SIGTERM that ends the process at once; ours stops and stores."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


@contextlib.contextmanager
def _loopback_only() -> Iterator[None]:
    """A cluster that is started inside listens on 127.0.0.1 only; one that does is joined inside.

    Ray's services run code for whoever reaches them, and they listen on every interface, even when told
    that this node is 127.0.0.1, unless Ray takes the system for one without clusters (macOS, Windows).
    """
    constants: Any = ray._private.ray_constants
    before = constants.ENABLE_RAY_CLUSTER
    constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = before


def _only_on_loopback(address: str) -> bool:
    """Whether a cluster answers at 127.0.0.1, but not at this machine's own address, which Ray would take."""
    host, _, port = address.rpartition(":")
    if host not in {"127.0.0.1", "localhost"}:
        return False
    try:
        socket.create_connection((ray.util.get_node_ip_address(), int(port)), CONNECT_TIMEOUT_S).close()
    except OSError:
        return True
    return False


def _nothing() -> None:
    """Leave the cluster to whoever started it."""


def check_cluster(address: str) -> None:
    """Ask whether Ray's control service (gRPC, so HTTP/2) is there; Ray itself would wait for minutes.

    Raises:
        ConfigError: Nothing answers at that address, or something else does; "auto" is not asked.
    """
    if address == "auto":
        return
    where = f"execution.address = {address!r}"
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not (colon and host and port.isdecimal() and int(port) < 2**16):
        raise ConfigError(f"{where}: write it as host:port, or auto for the cluster of this machine")
    way_out = "start one with `ray start --head`, or leave the address out for a local one"
    try:
        with socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S) as connection:
            connection.sendall(_HTTP2_HELLO)
            answer = connection.recv(9)
    except OSError as error:
        raise ConfigError(f"{where}: nothing answers there ({error}); {way_out}") from None
    encrypted = os.environ.get("RAY_USE_TLS", "0") == "1"
    if not encrypted and (len(answer) < 4 or answer[3] != _HTTP2_SETTINGS):
        raise ConfigError(f"{where}: what answers there is no Ray cluster; {way_out}")
