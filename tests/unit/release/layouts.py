"""Small OCI image layouts, of the shape that deploy/Dockerfile's image has."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

from release.image import Layout, layout

STATUS = """\
Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.41-12+deb13u1
Description: GNU C Library: Shared libraries
 More about it:
 Package: none

Package: perl-base
Status: deinstall ok config-files
Architecture: amd64
Version: 5.40.1-6
"""
METADATA = """\
Metadata-Version: 2.4
Name: Prometheus_Client
Version: 0.26.0
Summary: Metrics
License-Expression: Apache-2.0 AND BSD-2-Clause

Name: not this
"""
AGENT = "Metadata-Version: 2.4\nName: netpol-agent\nVersion: 0.1.0\nLicense-Expression: Apache-2.0\n"
PACKAGES = "opt/netpol-agent/lib/python3.13/site-packages"
FILES = {
    "etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 13 (trixie)"\nID=debian\nVERSION_ID="13"\n',
    "var/lib/dpkg/status": STATUS,
    f"{PACKAGES}/prometheus_client-0.26.0.dist-info/METADATA": METADATA,
    f"{PACKAGES}/netpol_agent-0.1.0.dist-info/METADATA": AGENT,
    f"{PACKAGES}/agent/METADATA": "Name: no distribution\n",
}


def made(directory: Path, files: Mapping[str, str] = FILES) -> Layout:
    """Write a layout whose image has these files."""
    blobs = directory / "blobs/sha256"
    blobs.mkdir(parents=True)

    def blob(content: bytes) -> dict[str, object]:
        digest = hashlib.sha256(content).hexdigest()
        (blobs / digest).write_bytes(content)
        return {"digest": f"sha256:{digest}", "size": len(content)}

    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    config = blob(json.dumps({"architecture": "amd64", "os": "linux", "config": {}}).encode())
    layer = blob(gzip.compress(packed.getvalue(), mtime=0))
    manifest = blob(json.dumps({"schemaVersion": 2, "config": config, "layers": [layer]}).encode())
    (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [manifest]}))
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return layout(directory)
