"""``mmtk x NAME``: commands that plugins add."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mmtk.cli.refusal import refusals

if TYPE_CHECKING:
    from mmtk.plugins import Command

__all__ = ["extra"]


def extra(
    name: Annotated[str | None, typer.Argument(help="The command; none: list them.")] = None,
    arguments: Annotated[list[str] | None, typer.Argument(help="Its own arguments.")] = None,
) -> None:
    """Run a command that a plugin adds."""
    from mmtk.config import nearest
    from mmtk.errors import ConfigError
    from mmtk.plugins import installed

    with refusals():
        commands = {command.name: command for plugin in installed().plugins for command in plugin.commands}
        if name is None:
            typer.echo(
                "\n".join(f"{c.name}  {c.summary}" for c in commands.values()) or "no plugin adds a command"
            )
        elif name not in commands:
            raise ConfigError(f"no plugin adds a command called '{name}'{nearest(name, commands)}")
        else:
            _load(commands[name])(args=arguments or [], prog_name=f"mmtk x {name}")


def _load(command: Command) -> typer.Typer:
    from mmtk.config import load_target

    target = load_target(command.target)
    if isinstance(target, typer.Typer):
        return target
    app = typer.Typer(add_completion=False)
    app.command()(target)
    return app
