"""The commands as a group: what it says of a flag with a value, and of help that cannot be written."""

from __future__ import annotations

import itertools
import traceback
from collections.abc import Sequence
from typing import Any

import click

from agent.commands.options import answering
from agent.setting_values import BOOLEANS

_ALL = "--"


class Commands(click.Group):
    """The commands of the program. One whose flag is given a value ends with what to give in its place.

    click would say no more than that ``yes`` is an unexpected argument. What click writes itself, help and
    the version, is an answer like all others.
    """

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run as click does. Where what is said cannot be written, end with exit code 2."""
        try:
            return super().main(*args, **extra)
        except OSError as error:
            if any(
                frame.f_code is click.echo.__code__ for frame, _ in traceback.walk_tb(error.__traceback__)
            ):
                with answering():
                    raise
            raise

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return what click returns. Raises click.UsageError when a flag is given a value."""
        name, command, rest = super().resolve_command(ctx, args)
        if command is None or ctx.resilient_parsing:
            return name, command, rest
        if wrong := flag_with_value(command, rest):
            raise click.UsageError(wrong, click.Context(command, ctx, info_name=name))
        return name, command, rest


def flag_with_value(command: click.Command, args: Sequence[str]) -> str:
    """Return what is wrong with the first flag of these arguments that is given a value, or an empty text.

    A word after a flag is its value if the command takes no arguments, or if it is one of a boolean's words.
    """
    flags = {
        text: option
        for option in command.params
        if isinstance(option, click.Option) and option.is_flag
        for text in (*option.opts, *option.secondary_opts)
    }
    alone = not any(isinstance(param, click.Argument) for param in command.params)
    for here, after in itertools.pairwise((*args, _ALL)):
        if here == _ALL:
            break
        flag, equals, text = here.partition("=")
        if flag not in flags:
            continue
        if not equals:
            text = after
            if text.startswith("-") or not (alone or text.lower() in BOOLEANS):
                continue
        return f"{flag} is {text!r}: it takes no value; {_remedy(flags[flag])}."
    return ""


def _remedy(option: click.Option) -> str:
    on = max(option.opts, key=len)
    if not option.secondary_opts:
        return f"give {on} alone"
    return f"give {on} alone, or {option.secondary_opts[0]}"
