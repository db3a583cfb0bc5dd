"""What is in the image, as a CycloneDX bill of materials: Debian's packages and Python's.

It is read from the image itself: from dpkg's list and the metadata of what pip has installed, which both stay
when the image is made small. It says what there is, not which part needs which other.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.message import Message
from email.parser import BytesParser

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.dependency import Dependency
from cyclonedx.model.license import DisjunctiveLicense, LicenseExpression
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

from release.error import ReleaseError
from release.image import Layout
from release.source import Source

_SERIAL = uuid.UUID("6f1c1c0a-6c5b-5d0e-9a57-6e65747061ff")
"""The namespace of serial numbers, which follow from the image's digest (RFC 9562 section 5.5)."""

_METADATA = re.compile(r".*/site-packages/[^/]+\.dist-info/METADATA")
_DPKG = "var/lib/dpkg/status"
_OS = ("etc/os-release", "usr/lib/os-release")

License = DisjunctiveLicense | LicenseExpression


def sbom(made: Layout, source: Source, name: str) -> str:
    """Return the bill of materials of an image as JSON text, valid by the schema of CycloneDX 1.6.

    ``name`` is where the image is pulled from. Raises ReleaseError when the image has not both kinds of
    packages, or the schema is not met.
    """
    system: dict[str, str] = {}
    packages: list[Component] = []
    found: list[tuple[str, bytes]] = [
        (path, content.read())
        for path, content in made.files()
        if path == _DPKG or path in _OS or _METADATA.fullmatch(path)
    ]
    for path, content in found:
        if path in _OS:
            pairs = (line.partition("=") for line in content.decode().splitlines())
            system |= {key: value.strip('"') for key, _, value in pairs}
    for path, content in found:
        if path == _DPKG:
            packages += debian(content, system)
        elif path not in _OS:
            packages.append(python(BytesParser().parsebytes(content, headersonly=True)))
    kinds = {package.purl.type for package in packages if package.purl}
    if not {"deb", "pypi"} <= kinds:
        raise ReleaseError(
            f"the image has packages of {sorted(kinds)} only: it was not built by deploy/Dockerfile"
        )
    text = JsonV1Dot6(_bom(made, source, name, packages, _system(system))).output_as_string(indent=2) + "\n"
    if error := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        raise ReleaseError(f"the bill of materials does not meet the schema of CycloneDX 1.6: {error}")
    return text


def _bom(made: Layout, source: Source, name: str, packages: list[Component], system: Component) -> Bom:
    repository, _, last = name.rpartition("/")
    qualifiers = {"arch": made.config["architecture"], "tag": source.version}
    if repository:
        qualifiers["repository_url"] = name
    image = Component(
        name=last,
        version=source.version,
        type=ComponentType.CONTAINER,
        bom_ref="image",
        purl=PackageURL("oci", name=last, version=made.digest, qualifiers=qualifiers),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=made.digest.removeprefix("sha256:"))],
        licenses=[LicenseFactory().make_from_string("Apache-2.0")],
        properties=[Property(name="netpol-agent:commit", value=source.commit)],
    )
    return Bom(
        serial_number=uuid.uuid5(_SERIAL, made.digest),
        metadata=BomMetaData(component=image, timestamp=datetime.fromtimestamp(source.epoch, UTC)),
        components=[*packages, system],
        dependencies=[Dependency(image.bom_ref, [Dependency(part.bom_ref) for part in [*packages, system]])],
    )


def _system(release: Mapping[str, str]) -> Component:
    return Component(
        name=release["ID"],
        version=release["VERSION_ID"],
        type=ComponentType.OPERATING_SYSTEM,
        bom_ref="system",
        description=release.get("PRETTY_NAME"),
    )


def debian(status: bytes, system: Mapping[str, str]) -> Iterator[Component]:
    """Yield a component for each package that dpkg's list (deb822) says is installed.

    ``system`` is what os-release says; its ID and VERSION_ID go into the package's URL.
    """
    for paragraph in status.decode().split("\n\n"):
        fields = {
            key: value.strip()
            for key, colon, value in (line.partition(":") for line in paragraph.splitlines())
            if colon and not key.startswith(" ")
        }
        if fields.get("Status") != "install ok installed":
            continue
        distro = f"{system['ID']}-{system['VERSION_ID']}"
        qualifiers = {"arch": fields["Architecture"], "distro": distro}
        yield _component(
            fields["Package"],
            fields["Version"],
            PackageURL("deb", system["ID"], fields["Package"], fields["Version"], qualifiers),
            description=fields.get("Description", ""),
        )


def python(metadata: Message) -> Component:
    """Return the component of a Python distribution with this core metadata. The agent is on no index."""
    name, version = metadata["Name"], metadata["Version"]
    canonical = re.sub(r"[-_.]+", "-", name).lower()
    kind = "generic" if canonical == "netpol-agent" else "pypi"
    return _component(
        canonical,
        version,
        PackageURL(kind, name=canonical, version=version),
        description=metadata.get("Summary", ""),
        licenses=_licenses(metadata),
    )


def _component(
    name: str, version: str, purl: PackageURL, *, description: str, licenses: list[License] | None = None
) -> Component:
    return Component(
        name=name,
        version=version,
        type=ComponentType.LIBRARY,
        bom_ref=purl.to_string(),
        purl=purl,
        description=description or None,
        licenses=licenses or (),
    )


def _licenses(metadata: Message) -> list[License]:
    """Return the licenses of a distribution: an SPDX expression, else trove classifiers, else a name."""
    factory = LicenseFactory()
    if expression := metadata.get("License-Expression"):
        return [factory.make_from_string(expression)]
    classifiers = metadata.get_all("Classifier") or []
    names = [c.rpartition(" :: ")[2] for c in classifiers if c.startswith("License ::")]
    if names := [name for name in names if name != "OSI Approved"]:
        return [factory.make_with_name(name) for name in names]
    text = (metadata.get("License") or "").strip()
    return [factory.make_from_string(text)] if text and "\n" not in text else []
