"""Images on their way to another process: encrypted there if they were encrypted at rest."""

import dataclasses
import io
from typing import Any

import numpy as np

from evaluators.data.sealed import seal, unseal


class Carried:
    """A frozen dataclass of arrays, some of them perhaps None, that pickles encrypted if it is `sealed`."""

    sealed: bool

    def __reduce_ex__(self, protocol: Any) -> Any:
        if not self.sealed:
            return super().__reduce_ex__(protocol)
        own: Any = self
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(own)}
        buffer = io.BytesIO()
        arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
        np.savez(buffer, **arrays)  # type: ignore[arg-type]  # the stubs take them for a flag
        return _unsealed, (type(self), seal(buffer.getvalue()))


def _unsealed(kind: Any, content: bytes) -> Any:
    with np.load(io.BytesIO(unseal(content, "these images")), allow_pickle=False) as arrays:
        return kind(**arrays, sealed=True)
