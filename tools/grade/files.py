"""Writing files so that none is ever half there."""

import os
import tempfile
from pathlib import Path


def write(path: Path, content: str | bytes) -> None:
    """Put a file in its place whole, or not at all, whenever the machine dies; half a character becomes a "?"."""
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = content.encode("utf-8", "replace") if isinstance(content, str) else content
    at, name = tempfile.mkstemp(prefix=".new-", dir=path.parent)
    try:
        with os.fdopen(at, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
