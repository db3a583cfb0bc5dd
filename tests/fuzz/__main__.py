"""``python -m tests.fuzz [DECODER…] [--inputs N]``: many inputs for each decoder, led by coverage."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path


def main() -> int:
    """Run each decoder in a process of its own, which ends at its first defect. Exit 1 when there is one."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("decoder", nargs="*", help="the names of decoders; all when none is given")
    parser.add_argument("--inputs", type=int, default=1_000_000, help="for each (default: %(default)s)")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    try:
        import atheris  # noqa: F401 - by hand only, some 35 MB
    except ImportError:
        parser.error("atheris is not installed: pip install atheris")
    if given.one:
        _run(given.one, given.inputs)
    from tests.fuzz.targets import TARGETS

    names = [target.name for target in TARGETS]
    if unknown := set(given.decoder) - set(names):
        parser.error(f"no decoder is named {', '.join(sorted(unknown))}; there are: {', '.join(names)}")
    failed = []
    for number, name in enumerate(given.decoder or names, 1):
        print(f"{number}/{len(given.decoder or names)} {name}", file=sys.stderr, flush=True)
        command = [sys.executable, "-m", "tests.fuzz", "--one", name, "--inputs", str(given.inputs)]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        if ran.returncode:
            failed.append(name)
            print(ran.stdout, ran.stderr, sep="\n")
    print("no defect" if not failed else f"defects in: {', '.join(failed)}")
    return 1 if failed else 0


def _run(name: str, inputs: int) -> None:
    """Fuzz one decoder in this process; libFuzzer ends it."""
    import atheris

    with atheris.instrument_imports(include=["agent"]):
        from tests.fuzz.targets import TARGETS

    (target,) = (target for target in TARGETS if target.name == name)
    with tempfile.TemporaryDirectory() as corpus:
        for number, example in enumerate(target.examples):
            (Path(corpus) / str(number)).write_bytes(example)
        atheris.Setup(
            [
                "fuzz",
                f"-runs={inputs}",
                "-max_len=2048",
                "-timeout=10",
                f"-artifact_prefix={corpus}/",
                corpus,
            ],
            target.try_on,
        )
        atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
