"""An archive of named texts: what ``netpol-agent report`` writes."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Mapping


def archive(folder: str, parts: Mapping[str, bytes], at: float) -> bytes:
    """Return a tar.gz of parts, all in one folder; ``at`` is when they were read, in ``time.time()`` seconds.

    The same parts give the same bytes. Only the owner may read what is unpacked.
    """
    written = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=written, mode="wb", mtime=at) as packed,
        tarfile.TarFile(fileobj=packed, mode="w") as tar,
    ):
        for name, content in sorted(parts.items()):
            info = tarfile.TarInfo(f"{folder}/{name}")
            info.size, info.mtime, info.mode = len(content), int(at), 0o600
            tar.addfile(info, io.BytesIO(content))
    return written.getvalue()
