"""A real PostgreSQL server for the tests, started and stopped by them."""

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

USER, PASSWORD = "archivist", "a&b:c/d"


def binary(name: str) -> str:
    """The path of one of the server's programs; skips the test where there is no server."""
    server = shutil.which("postgres")
    beside = [Path(server).resolve().parent] if server else []
    for folder in [*beside, *sorted(Path("/usr/lib/postgresql").glob("*/bin"))]:
        if (folder / name).exists():
            return str(folder / name)
    pytest.skip(f"no PostgreSQL server: there is no {name} on the path or in /usr/lib/postgresql")


@contextlib.contextmanager
def running_server() -> Iterator["Server"]:
    """A server in a folder of its own, on 127.0.0.1 only, gone at the end."""
    initdb, postgres = binary("initdb"), binary("postgres")
    as_user: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="paretoprune-postgres-") as name:
        folder = Path(name)
        (folder / "password").write_text(PASSWORD)
        if os.getuid() == 0:  # which the server refuses to be
            nobody = pwd.getpwnam("nobody")
            as_user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            for path in (folder, folder / "password"):
                os.chown(path, nobody.pw_uid, nobody.pw_gid)
        settings: dict[str, Any] = {"cwd": folder, "stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
        make = [initdb, "-D", f"{folder}/data", "-U", USER, "-A", "scram-sha-256", "--no-sync"]
        make += [f"--pwfile={folder}/password", "--encoding=UTF8", "--locale=C"]
        subprocess.run(make, check=True, stderr=subprocess.PIPE, **settings, **as_user)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        run = [postgres, "-D", f"{folder}/data", "-p", str(port), "-c", "listen_addresses=127.0.0.1"]
        run += ["-c", "unix_socket_directories=", "-c", "fsync=off"]
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(run, stderr=log, **settings, **as_user)
        try:
            server = Server(port)
            server.wait_until_up(process)
            yield server
        finally:
            process.send_signal(signal.SIGINT)  # closes the clients' connections
            process.wait(timeout=30)


class Server:
    def __init__(self, port: int) -> None:
        self.port = port

    def connect(self, database: str = "postgres") -> psycopg.Connection:
        """A connection of somebody else's, each statement its own transaction."""
        settings = {"host": "127.0.0.1", "port": self.port, "user": USER, "password": PASSWORD}
        return psycopg.connect(dbname=database, autocommit=True, **settings)

    def wait_until_up(self, process: subprocess.Popen) -> None:
        deadline = time.monotonic() + 30
        while True:
            try:
                self.connect().close()
                return
            except psycopg.OperationalError:
                assert process.poll() is None, "the server has ended"
                assert time.monotonic() < deadline, "the server does not answer"
                time.sleep(0.05)

    def new_database(self) -> str:
        """The name of an empty database."""
        name = f"db_{secrets.token_hex(4)}"
        with self.connect() as connection:
            connection.execute(f"CREATE DATABASE {name}")  # the name is ours
        return name

    def url(self, database: str) -> str:
        return f"postgresql://{USER}:a%26b%3Ac%2Fd@127.0.0.1:{self.port}/{database}"
