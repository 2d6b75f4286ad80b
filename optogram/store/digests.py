"""Content digests: of files, folders and JSON values. Same content, same digest, on every machine."""

import hashlib
import json
from pathlib import Path
from typing import Any

BLOCK = 1 << 20


def canonical(value: Any) -> str:
    """JSON text of a value with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def value_digest(value: Any) -> str:
    """Hex sha256 of the canonical JSON of a value."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def bytes_digest(content: bytes) -> str:
    """Hex sha256 of bytes: that of a file which holds them."""
    return hashlib.sha256(content).hexdigest()


def file_digest(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def files_digest(files: dict[str, str]) -> str:
    """Hex sha256 of a {relative path: file digest} table, in sorted order."""
    return value_digest(sorted(files.items()))


def folder_digest(folder: Path) -> str:
    """Hex sha256 of a folder: every file's relative path and content."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return files_digest({path.relative_to(folder).as_posix(): file_digest(path) for path in files})
