"""Which policies of others a person has confirmed: a file beside the history, written by a command.

The agent only reads it. Who may write the state directory may confirm.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from agent.clock import Moment
from agent.decoding import UndecodableError, decode
from agent.history.store import StoreError

NAME = "confirmed.json"
"""The file's name in the state directory."""


class Confirmation(msgspec.Struct, frozen=True):
    """That a policy is meant to be there. ``manager``: who wrote it last then; another's edit ends it.

    ``who`` is the user of the node who confirmed.
    """

    manager: str
    at: Moment
    who: str = ""


def read(directory: Path) -> Mapping[str, Confirmation]:
    """Return the confirmations by ``NAMESPACE/NAME``; none where there is no file. Raises StoreError."""
    try:
        return decode((directory / NAME).read_bytes(), dict[str, Confirmation])
    except FileNotFoundError:
        return {}
    except (OSError, UndecodableError) as error:
        raise StoreError(f"{directory / NAME}: {error}") from None


def confirm(directory: Path, policy: str, found: Confirmation) -> None:
    """Add a confirmation, or replace that of the same policy, whole or not at all. Raises StoreError."""
    try:
        known = read(directory)
    except StoreError as error:
        raise StoreError(f"{error}; remove the file, and confirm again what is to be confirmed") from None
    body = msgspec.json.format(msgspec.json.encode({**known, policy: found}), indent=2) + b"\n"
    beside = directory / f"{NAME}.new"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with open(beside, "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, directory / NAME)
    except OSError as error:
        raise StoreError(f"{directory / NAME} cannot be written: {error.strerror or error}") from None
