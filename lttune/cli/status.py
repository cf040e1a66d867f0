"""`lttune status`: the trials of a study, running or not."""

from pathlib import Path

import click

from lttune.cli.options import JSON_OPTION, OUT_OPTION, print_json, result_document


@click.command()
@click.argument("study", required=False)
@OUT_OPTION
@click.option("--why", is_flag=True, help="What runs where, and what each waiting trial waits for.")
@JSON_OPTION
def command(study: str | None, out: Path, why: bool, as_json: bool) -> int:
    """Show the trials of a study, running or not; without STUDY, list the studies of OUT."""
    from lttune.cli.state import state_lines
    from lttune.cli.view import page, trial_table
    from lttune.tuning.study import StudyStore, find_study, known_studies
    from trainables import recipe_of

    if study is None:
        names = [folder.name for folder in known_studies(out)]
        if as_json:
            print_json({"studies": names})
        else:
            click.echo("\n".join(names) if names else f"There is no study in {out}. Start one: lttune search acsl")
        return 0
    folder = find_study(study, out)
    spec = folder.load_spec(needs_files=False, recipe_of=recipe_of)
    if why:
        for line in state_lines(folder):
            click.echo(line)
        return 0
    result = StudyStore(folder, spec, is_driver=False).results()
    if as_json:
        print_json(result_document(result))
        return 0
    console = page()
    console.print(trial_table(list(result.trials), best=result.best, width=console.width))
    ended = sum(trial.state != "RUNNING" for trial in result.trials)
    if folder.is_driven():
        state = f"driven by {folder.holder()}"
    elif not folder.is_ended:
        state = f"broken off; go on with: lttune resume {folder.name}"
    else:
        state = "the search is complete"
    console.print(f"\n{ended} of {spec.search.trials} trials ended; {state}")
    for trial in result.trials:
        if trial.reason:
            console.print(f"trial {trial.number}: {trial.reason}")
    return 0
