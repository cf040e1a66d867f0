"""`lttune submit`: a search as a job of a Ray cluster."""

from pathlib import Path

import click

from lttune.cli.options import load_runnable, spec_options


@click.command(
    context_settings={"ignore_unknown_options": False},
    epilog="What follows `--` is given to `lttune search` there: lttune submit acsl --address URL -- --trials 8",
)
@click.argument("spec", metavar="SPEC")
@click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="[-- SEARCH OPTIONS]")
@click.option("--address", required=True, metavar="URL", help="Dashboard of the head: http://HEAD:8265.")
@click.option("--follow", is_flag=True, help="Show the job's output until it ends; its exit code is ours.")
@click.option("--study", metavar="NAME", help="Name of the study; by default the file's.")
@click.option("--resume", is_flag=True, help="SPEC is a study in OUT that goes on.")
@click.option("--out", metavar="DIR", help="Folder of all studies, the same on every node of the cluster.")
@click.option(
    "--module",
    "modules",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Python file or package of your own that the job imports; may be repeated.",
)
@spec_options
def command(
    spec: str,
    options: tuple[str, ...],
    address: str,
    follow: bool,
    study: str | None,
    resume: bool,
    out: str | None,
    modules: tuple[Path, ...],
    on: str | None,
    overrides: dict[str, str],
    data_root: Path | None,
) -> int:
    """Submit a search to an existing Ray cluster.

    Tokens come from RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH and authenticate this command alone.
    """
    from lttune.cli.follow import follow_job
    from lttune.cli.resume import command as resume_command
    from lttune.cli.search import command as search_command
    from lttune.tuning.cluster.client import JobsClient
    from lttune.tuning.cluster.submission import Submission, submit, submitted_out

    # A wrong option is better told here than by a job.
    (resume_command if resume else search_command).make_context("search", [spec, *options])
    loaded = None if resume else load_runnable(spec, on=on, overrides=overrides, data_root=data_root, needs_files=False)
    name = study or (spec if resume else Path(spec).stem)
    submission = Submission(spec=loaded, study=name, out=submitted_out(out, address), modules=modules, options=options)
    client = JobsClient(address)
    job = submit(submission, client, lambda line: click.echo(line, err=True))
    click.echo(job)
    if follow:
        return follow_job(client, job)
    click.echo(f"Follow it with: lttune jobs logs {job} --follow --address {address}", err=True)
    return 0
