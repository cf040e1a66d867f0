"""The `lttune` command. Each command lives in a module of its own that is imported when it is called."""

import errno
import os
import sys
from importlib import import_module
from typing import Any

import click

# Before anything imports torch or MLflow: threads that spin while they wait starve the trials beside them, and nothing
# here reports home.
for _name, _value in {
    "OMP_WAIT_POLICY": "PASSIVE",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
}.items():
    os.environ.setdefault(_name, _value)

_COMMANDS = {
    "search": "Search a space; a new study.",
    "resume": "Go on with a study that was broken off.",
    "status": "Show the trials of a study.",
    "stop": "End a running search in order.",
    "compare": "Compare studies on the same data.",
    "report": "Write a page of tables and plots.",
    "export": "Write the best configuration and its weights.",
    "train": "Train one configuration without a search.",
    "evaluate": "Judge an exported folder, or anybody's detections.",
    "validate": "Check a search space without running it.",
    "data": "Make and inspect data.",
    "init": "Write a setting for your own data.",
    "submit": "Run a search as a job of a Ray cluster.",
    "jobs": "Look after submitted searches.",
    "probe": "Measure what a trial takes, before a search.",
    "cache": "List and prune the shared cache.",
    "sync": "Send MLflow what it missed.",
    "ui": "Open MLflow's pages on this machine.",
}


class _LazyGroup(click.Group):
    """Knows its commands by name, so that `--help` imports none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = import_module(f"lttune.cli.{cmd_name}").command
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            from lttune.errors import did_you_mean

            raise click.UsageError(f"there is no command '{args[0]}'.{did_you_mean(args[0], list(_COMMANDS))}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="lttune", message="lttune %(version)s")
def group() -> None:
    """Tune long-tail detection losses: Ray shares the trials out, Optuna picks the values, MLflow keeps the score.

    Start with `lttune search acsl`.
    """


def main() -> None:
    """Run the command line; what a user can mend ends with one message and exit code 2."""
    from lttune.errors import LttuneError

    try:
        sys.exit(group(standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        sys.exit(130)
    except LttuneError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(2)
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            click.echo("Error: the disk is full; free some space. A search goes on with: lttune resume STUDY", err=True)
            sys.exit(2)
        if not isinstance(error, PermissionError):
            raise
        click.echo(f"Error: {error.filename}: {error.strerror}; choose another folder.", err=True)
        sys.exit(2)
