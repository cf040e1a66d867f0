"""`lttune jobs`: searches that were submitted to a Ray cluster."""

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from lttune.cli.options import JSON_OPTION, print_json

if TYPE_CHECKING:
    from lttune.tuning.cluster.client import JobState

_ADDRESS = click.option("--address", required=True, metavar="URL", help="Dashboard of the head: http://HEAD:8265.")


@click.group()
def command() -> None:
    """Look after searches that were submitted to a Ray cluster."""


@command.command("list")
@_ADDRESS
@JSON_OPTION
def list_(address: str, as_json: bool) -> int:
    """List lttune's jobs, the oldest first."""
    from lttune.tuning.cluster.client import JobsClient

    found = JobsClient(address).jobs()
    if as_json:
        print_json({"jobs": [asdict(state) for state in found]})
    else:
        click.echo("\n".join(map(_line, found)) if found else f"lttune has no jobs at {address}.")
    return 0


@command.command()
@click.argument("job")
@_ADDRESS
@JSON_OPTION
def status(job: str, address: str, as_json: bool) -> int:
    """Show the state of one job."""
    from lttune.tuning.cluster.client import JobsClient

    state = JobsClient(address).state(job)
    if as_json:
        print_json(asdict(state))
    else:
        click.echo(_line(state))
        click.echo(f"  {state.message.strip()}")
        if state.study and state.out:
            click.echo(f"  its study: lttune status {state.study} --out {state.out}")
    return 0


@command.command()
@click.argument("job")
@_ADDRESS
@click.option("--follow", is_flag=True, help="Go on until the job ends; its exit code is ours.")
def logs(job: str, address: str, follow: bool) -> int:
    """Show a job's output."""
    from lttune.cli.follow import follow_job
    from lttune.tuning.cluster.client import JobsClient

    client = JobsClient(address)
    if follow:
        return follow_job(client, job)
    click.echo(client.logs(job), nl=False)
    return 0


@command.command()
@click.argument("job")
@_ADDRESS
def stop(job: str, address: str) -> int:
    """Stop a job; its study can be resumed."""
    from lttune.tuning.cluster.client import JobsClient

    client = JobsClient(address)
    if not client.stop(job):
        click.echo(f"{job} was not running: {client.state(job).status}.", err=True)
        return 0
    click.echo(f"{job} is asked to stop; go on with: lttune submit STUDY --resume --address {client.address}", err=True)
    return 0


def _line(state: "JobState") -> str:
    seconds = "" if state.seconds is None else f"{state.seconds:,.0f} s"
    return f"{state.job}  {state.status:<9}  {seconds:>9}  {state.study or ''}"
