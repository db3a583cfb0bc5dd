"""A real Prometheus (Debian's) on a node, which scrapes the agent there."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import subprocess
import urllib.parse
from pathlib import Path
from typing import Any

import yaml

from tests.lab.client import Json
from tests.lab.cluster import HEALTH_PORT, wait_until
from tests.lab.node import Node
from tests.lab.place import LabError
from tests.patience import PATIENCE

PORT = 9090


class Prometheus:
    """Scrapes the status port of a node's agent each second; a context manager. Raises LabError.

    ``rules``: groups of alert rules, as a PrometheusRule has them in its spec.
    """

    def __init__(self, node: Node, directory: Path, rules: Json) -> None:
        binary = shutil.which("prometheus")
        if binary is None:
            raise LabError("prometheus is not installed (Debian package prometheus)")
        self._node = node
        (directory / "rules.yml").write_text(yaml.safe_dump(rules))
        target = {"targets": [f"127.0.0.1:{HEALTH_PORT}"], "labels": {"node": node.name}}
        config = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": ["rules.yml"],
            "scrape_configs": [
                {"job_name": "netpol-agent", "honor_labels": True, "static_configs": [target]},
            ],
        }
        (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
        self._log = directory / "prometheus.log"
        with self._log.open("wb") as log:
            self._process: subprocess.Popen[bytes] = node.popen(
                [
                    binary,
                    f"--config.file={directory / 'prometheus.yml'}",
                    f"--storage.tsdb.path={directory / 'data'}",
                    f"--web.listen-address=127.0.0.1:{PORT}",
                ],
                output=log,
            )

    def __enter__(self) -> Prometheus:
        try:
            wait_until(self._is_ready, 30.0)
        except TimeoutError:
            tail = self._log.read_text(errors="replace")[-2000:]
            self.close()
            raise LabError(f"prometheus is not ready:\n{tail}") from None
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()

    def query(self, expression: str) -> list[Json]:
        """Return the series of an instant query, each with ``metric`` and ``value``. Raises LabError."""
        answer = self._get("/api/v1/query?" + urllib.parse.urlencode({"query": expression}))
        if answer["status"] != "success":
            raise LabError(f"{expression}: {answer['error']}")
        found: list[Json] = answer["data"]["result"]
        return found

    def rules(self) -> list[Json]:
        """Return every alert rule, with its ``health``, ``lastError`` and ``state``."""
        groups = self._get("/api/v1/rules")["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def _is_ready(self) -> bool:
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            return bool(self.query('up{job="netpol-agent"} == 1'))
        return False

    def _get(self, path: str) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=PATIENCE)
        with self._node.netns.entered():
            connection.connect()
        with contextlib.closing(connection):
            connection.request("GET", path)
            return json.loads(connection.getresponse().read())
