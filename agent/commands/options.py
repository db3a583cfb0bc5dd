"""Settings as options of commands, and what commands have in common."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, NoReturn

import click

from agent.setting import Setting
from agent.settings import (
    SETTINGS,
    SettingError,
    Settings,
    resolve,
    setting_of,
    value,
)

Flags = Mapping[str, str | bool | None]


_COMMA = re.compile(r",(?=\S)")
_QUIET_SECONDS = 1.0


LOG_SETTINGS = ("log_format", "log_level")


MIGRATE_SETTINGS = tuple(
    setting.name for setting in SETTINGS if not setting.name.startswith(("health_", "metrics_"))
)


RENDER_SETTINGS = (
    "node_name",
    "families",
    "mark_ingress",
    "mark_egress",
    "allowed_packets",
    "denied_packets",
    "allow_nodes",
    "new_pods",
    "pod_networks",
    "policy_budget",
    "namespace_budget",
    "log_denied",
    "log_allowed",
    "log_rate",
    "log_burst",
    "log_group",
)


class Told(NamedTuple):
    """What a command says of a setting where it means something else there; None: what the table says."""

    help: str | None = None
    default: str | None = None


IN_RENDER = {
    "node_name": Told("The node whose rules to print.", "the only node that has pods"),
    "families": Told("The address families to print. auto: both."),
}


IN_EXPLAIN = {
    "kubeconfig": Told("Ask the API server of this kubeconfig for the objects, and no agent.", ""),
    "context": Told("The context of the kubeconfig.", ""),
    "health_address": Told("The IP address where the agent answers."),
    "health_port": Told("The TCP port where the agent answers."),
}


URL = click.option(
    "--url", metavar="URL", help="The URL where the agent answers, in place of the two options above."
)


IN_LINT = {
    "kubeconfig": Told("Look at the objects of this kubeconfig's API server, too.", ""),
    "context": Told("The context of the kubeconfig.", ""),
}


IN_STATUS = {
    "health_address": Told("The IP address where the agent answers."),
    "health_port": Told("The TCP port where the agent answers."),
}


IN_CLUSTER = {
    **IN_STATUS,
    "kubeconfig": Told("With --cluster: the file that says how to reach the API server."),
    "context": Told("With --cluster: the context of the kubeconfig."),
}


IN_CONVERT = {
    "kubeconfig": Told("With --from-flows: take the objects from the API server of this kubeconfig.", ""),
    "context": Told("The context of the kubeconfig.", ""),
}


IN_REPLAY = {
    **IN_STATUS,
    "kubeconfig": Told("Ask the API server of this kubeconfig: for the objects, or for the agents.", ""),
    "context": Told("The context of the kubeconfig.", ""),
}


IN_HISTORY = {
    **IN_STATUS,
    "state_dir": Told("Read the file of the history in this directory, and ask no agent.", ""),
}


def _option(setting: Setting, told: Told) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    variables = ", ".join(setting.environment)
    in_words = setting.default_text if told.default is None else told.default
    # Without a space it would be broken within a word, where a line ends.
    in_words = _COMMA.sub(", ", in_words)
    default = f"; default: {in_words}" if in_words else ""
    text = f"{told.help or setting.help}  [env: {variables}{default}]"
    if setting.switch:
        return click.option(
            f"{setting.flag}/{setting.negative_flag}", setting.name, default=None, is_flag=True, help=text
        )
    return click.option(setting.flag, setting.name, default=None, metavar=setting.metavar, help=text)


def options_for(
    *names: str, told: Mapping[str, Told] = MappingProxyType({})
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command the options of these settings, in the table's order; of all without names."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for setting in reversed(SETTINGS):
            if not names or setting.name in names:
                command = _option(setting, told.get(setting.name, Told()))(command)
        return command

    return decorate


def _places(default: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(
        "--manifests",
        "places",
        multiple=True,
        metavar="PATH",
        help="A directory or file of objects, or - for standard input. May be given several times.  "
        f"[env: {setting_of('manifests').environment[0]}; default: {default}]",
    )


PLACES = _places("none, it must be given")


PLACES_IF_ANY = _places("none: the agent is asked")


MORE = click.argument("more", nargs=-1, metavar="", required=False)


def places_of(places: tuple[str, ...], more: tuple[str, ...]) -> list[Path]:
    """Return what to read objects from; what is not there ends the command with exit code 2.

    ``more`` are arguments that belong to no option, as a shell makes of ``--manifests *.yaml``.
    """
    found = places_if_given(places, more)
    if not found:
        raise click.UsageError(
            "--manifests is missing: give a directory or file of objects, or - for standard input."
        )
    return found


def places_if_given(places: tuple[str, ...], more: tuple[str, ...]) -> list[Path]:
    """Return what to read objects from as :func:`places_of` does; nothing where nothing is given."""
    if more:
        raise click.UsageError(
            f"{more[0]!r} belongs to no option: give --manifests before each path, or the directory."
        )
    variable = setting_of("manifests").environment[0]
    origin = "--manifests" if places else variable
    texts = places or tuple(filter(None, (os.environ.get(variable),)))
    for text in texts:
        if not text:
            raise click.UsageError(f"{origin} is empty: give it a value.")
        if text != "-" and not os.path.lexists(text):
            raise click.UsageError(f"{origin} is {text!r}: no such file or directory; correct the path.")
    return [Path(text) for text in texts]


def tell(notes: Iterable[str], refused: Iterable[str]) -> None:
    """Print what was passed over and what was refused on standard error, each in one line fit for a terminal.

    They quote names that are none. A line break in one could begin a command of a CI runner.
    """
    for what, lines in (("note", notes), ("refused", refused)):
        for line in lines:
            click.echo(f"{what}: {''.join(c if c.isprintable() else ' ' for c in line)}", err=True)


@contextlib.contextmanager
def answering(code: int = 2) -> Iterator[None]:
    """End the command where its answer cannot be written.

    ``code`` is the exit code. Where 0 and 1 are answers it is 2. A command that has done something ends with
    1, since 2 says that nothing was done.
    """
    try:
        yield
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise
        end(f"the answer cannot be written: {error.strerror}; write it elsewhere", code=code)


@contextlib.contextmanager
def progress(what: str) -> Iterator[None]:
    """Say on standard error what takes longer than a second, on a terminal only."""
    if not sys.stderr.isatty():
        yield
        return
    import threading

    done = threading.Event()
    begun = time.monotonic()

    def tell() -> None:
        wait = _QUIET_SECONDS
        while not done.wait(wait):
            sys.stderr.write(f"\r{what} ... {time.monotonic() - begun:.0f} s ")
            sys.stderr.flush()
            wait = 0.5

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join()
        if time.monotonic() - begun > _QUIET_SECONDS:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def end(*wrong: str, code: int = 2) -> NoReturn:
    """Say what went wrong, a line each, and end the command."""
    for line in wrong:
        click.echo(f"Error: {line}", err=True)
    sys.exit(code)


def texts_of(flags: Flags) -> dict[str, str | None]:
    return {
        name: ("true" if flag else "false") if isinstance(flag, bool) else flag
        for name, flag in flags.items()
    }


def settings_from(flags: Flags, environ: Mapping[str, str] = os.environ) -> Settings:
    """Return the settings; what cannot be used ends the command with exit code 2."""
    try:
        return resolve(texts_of(flags), environ)
    except SettingError as error:
        raise click.UsageError(str(error)) from None


def value_of(name: str, flags: Flags) -> Any:
    try:
        return value(name, texts_of(flags), os.environ)
    except SettingError as error:
        raise click.UsageError(str(error)) from None
