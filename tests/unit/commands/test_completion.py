"""What a shell completes, as docs/debugging.md sets it up."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

COMPLETE = """
eval "$(_NETPOL_AGENT_COMPLETE=bash_source netpol-agent)"
COMP_WORDS=(netpol-agent {words})
COMP_CWORD={position}
_netpol_agent_completion netpol-agent
echo "${{COMPREPLY[@]}}"
"""


@pytest.mark.parametrize(
    ("words", "position", "found"),
    [("expl", 1, "explain"), ("re", 1, "render replay report"), ("report --out", 2, "--output")],
)
def test_bash_completes_commands_and_options(tmp_path: Path, words: str, position: int, found: str) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("needs bash")
    command = tmp_path / "netpol-agent"
    command.write_text(
        f"#!{sys.executable}\nimport sys\nfrom agent.commands.cli import main\nsys.argv[0] = 'netpol-agent'\n"
        "main(prog_name='netpol-agent')\n"
    )
    command.chmod(0o755)
    script = COMPLETE.format(words=words, position=position)
    done = subprocess.run(
        [bash, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert (done.stdout, done.stderr) == (f"{found}\n", "")
