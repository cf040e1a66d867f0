"""Following a job for a person: its output, its exit code, and what Ctrl-C means."""

import sys

import click

from lttune.tuning.cluster.client import JobsClient
from lttune.tuning.cluster.submission import exit_code


def follow_job(client: JobsClient, job: str) -> int:
    """Show a job's output until it ends; gives the exit code that stands for its end."""
    try:
        state = client.follow(job, lambda text: click.echo(text, nl=False))
    except KeyboardInterrupt:
        _leave_or_stop(client, job)
        raise
    if state.status != "SUCCEEDED":
        click.echo(f"{job}: {state.status}. {state.message.strip().partition(chr(10))[0]}", err=True)
    return exit_code(state)


def _leave_or_stop(client: JobsClient, job: str) -> None:
    if sys.stdin.isatty() and click.confirm("\nThe job runs on. Stop it?", default=False, err=True):
        client.stop(job)
        click.echo(f"{job} is asked to stop.", err=True)
        return
    click.echo(f"The job runs on; stop it with: lttune jobs stop {job} --address {client.address}", err=True)
