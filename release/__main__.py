"""``python -m release``: see ``make release``."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import click

from release.error import ReleaseError
from release.image import architecture, build, layout
from release.make import image_name, make
from release.source import source

ROOT = Path(__file__).parents[1]


@click.command()
@click.option("--name", metavar="REGISTRY/NAME", help="Where the image will be pulled from, without a tag.")
@click.option(
    "--base", default="", metavar="IMAGE", help="The Debian below; unless given, as deploy/Dockerfile says."
)
@click.option(
    "--image",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Take this OCI image layout, and build none.",
)
@click.option(
    "--build-option", "options", multiple=True, help="Hand this to buildah build; may be given repeatedly."
)
@click.option(
    "--output", type=click.Path(path_type=Path), default=ROOT / "dist", help="Where the files go: dist."
)
def main(name: str | None, base: str, image: Path | None, options: tuple[str, ...], output: Path) -> None:
    """Make everything that a release has, of the commit that is checked out.

    Exit codes: 0 it is made, 1 it is not, and standard error says why and what to do.
    """
    try:
        released = source(ROOT)
        with tempfile.TemporaryDirectory() as place:
            if image is None:
                click.echo("building the image with buildah: some minutes", err=True)
                built = build(ROOT, Path(place) / "image", epoch=released.epoch, base=base, options=options)
            else:
                built = layout(image)
            made = make(released, built, output, name=name or image_name(ROOT))
    except ReleaseError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)
    click.echo(f"netpol-agent {released.version}, commit {released.commit[:12]}, for {architecture()}:")
    width = max(len(file.name) for file, _ in made)
    for file, what in made:
        click.echo(f"  {file.name:{width}}  {file.stat().st_size / 1e6:6.1f} MB  {what}")
    click.echo(f"They are in {output}. The image is {built.digest}")


if __name__ == "__main__":
    main(prog_name="python -m release")
