"""Logging for the command line: to the terminal when asked for, to a file as JSON lines."""

import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from spaces.errors import ConfigError


def set_up_logging(*, verbose: bool = False, log_file: Path | None = None) -> None:
    """Give our logger a voice: standard error if verbose, and a file if named.

    Raises:
        ConfigError: The file cannot be opened.
    """
    logger = logging.getLogger("paretoprune")
    logger.propagate = False
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.setLevel(logging.DEBUG)
    logger.addHandler(logging.NullHandler())
    if verbose:
        console = logging.StreamHandler()
        console.setLevel(logging.INFO)
        console.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        logger.addHandler(console)
    if log_file is not None:
        try:
            file = logging.FileHandler(log_file, encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"--log-file {str(log_file)!r} cannot be written: {error.strerror}") from None
        file.setFormatter(_JsonLines())
        logger.addHandler(file)


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        if progress := getattr(record, "progress", None):
            line["progress"] = progress
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line)
