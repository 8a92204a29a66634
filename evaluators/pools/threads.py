"""A fixed number of CPU threads per evaluation: sums in another order are other numbers."""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def pinned_threads(threads: int) -> Iterator[None]:
    """Torch computes with that many threads inside, and with as many as before outside."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
