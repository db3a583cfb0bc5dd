"""``python -m tests.demo.picture FILE`` draws what the demo prints of the first two policies, as an SVG.

What is drawn is a run with real packets. The file names no font that would be fetched, and brings its own
background, so it can be read on a light and on a dark page.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme

from tests.demo import show
from tests.demo.__main__ import EXAMPLES, enact
from tests.demo.examples import read
from tests.demo.stage import Stage, agent
from tests.lab.lab import Lab
from tests.lab.node import Layout, Mode

STEPS = 2
_WIDTH = 78
_THEME = TerminalTheme(
    (22, 27, 34),
    (230, 237, 243),
    [
        *((72, 79, 88), (255, 123, 114), (86, 211, 100), (227, 179, 65)),
        *((121, 192, 255), (210, 168, 255), (86, 212, 221), (177, 186, 196)),
    ],
)
_FORMAT = """<svg class="{unique_id}" viewBox="0 0 {width} {height}" \
xmlns="http://www.w3.org/2000/svg" role="img" aria-label="What make demo prints">
<style>
.{unique_id}-matrix {{
    font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, "Liberation Mono", monospace;
    font-size: {char_height}px; line-height: {line_height}px;
}}
{styles}
</style>
<defs>{lines}</defs>
<rect width="{width}" height="{height}" rx="10" fill="#161b22"/>
<g transform="translate(16, 24)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def drawn() -> str:
    """Run the first policies of ``examples/`` and return the picture.

    Needs root. Raises RuntimeError when a verdict is not as its example says, and what the demo raises.
    """
    examples = read(EXAMPLES)
    console = Console(record=True, file=io.StringIO(), width=_WIDTH, highlight=False, emoji=False)
    show.legend(console)
    with Lab() as lab:
        stage = Stage(lab, examples, Layout.BRIDGE, Mode.NFT)
        with agent(stage, lab.directory, examples.cluster, Mode.NFT.value) as running:
            running.wait_until_ready()
            seen = show.expected(examples, examples.reach)
            for step in examples.steps[:STEPS]:
                seen, wrong = enact(console, examples, stage, running, step, seen)
                if wrong:
                    raise RuntimeError(f"{step.title}: {wrong} verdicts are not as the example says")
    return console.export_svg(theme=_THEME, code_format=_FORMAT, unique_id="demo")


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(drawn())
