"""`lttune cache`: what searches share on this node, and what goes."""

import time
from pathlib import Path

import click

from lttune.cli.options import JSON_OPTION, OUT_OPTION, print_json


@click.group()
def command() -> None:
    """List and prune the cache of this node: LTTUNE_CACHE, else the folder `cache` of OUT."""


@command.command("list")
@OUT_OPTION
@JSON_OPTION
def list_(out: Path, as_json: bool) -> int:
    """List what is in the cache, least recently used first."""
    from lttune.engine.cache import cache_folder, entries, quota_bytes, size_text

    cache, quota = cache_folder(out), quota_bytes()
    found = entries(cache)
    if as_json:
        print_json(
            {
                "cache": str(cache),
                "quota_bytes": quota,
                "entries": [
                    {
                        "name": entry.name,
                        "kind": entry.kind,
                        "digest": entry.digest,
                        "bytes": entry.num_bytes,
                        "last_used": entry.last_used,
                        "users": list(entry.users),
                    }
                    for entry in found
                ],
            }
        )
        return 0
    for entry in found:
        stamp = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.last_used))
        users = f"  used by {', '.join(entry.users)}" if entry.users else ""
        click.echo(f"{entry.kind:<11}  {entry.digest:<12.12}  {size_text(entry.num_bytes):>9}  {stamp}{users}")
    limit = f" of {size_text(quota)}" if quota is not None else ""
    click.echo(f"{size_text(sum(entry.num_bytes for entry in found))}{limit} in {cache}")
    return 0


@command.command()
@OUT_OPTION
@click.option("--keep", metavar="SIZE", help="Remove what was used longest ago until so much is left: 20GB.")
@click.option("--all", "is_all", is_flag=True, help="Remove everything that nobody uses.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
def prune(out: Path, keep: str | None, is_all: bool, dry_run: bool) -> int:
    """Remove what was used longest ago; what a running search uses stays."""
    from lttune.engine.cache import cache_folder, entries, parse_size, quota_bytes, size_text
    from lttune.engine.cache import prune as prune_cache

    if (keep is not None) and is_all:
        raise click.UsageError("--keep and --all exclude each other.")
    limit = 0 if is_all else quota_bytes() if keep is None else parse_size(keep)
    if limit is None:
        raise click.UsageError("say how much may stay, --keep 20GB or --all, or set LTTUNE_CACHE_QUOTA.")
    cache = cache_folder(out)
    removed = prune_cache(cache, keep_bytes=-1 if is_all else limit, is_dry_run=dry_run)
    verb = "would remove" if dry_run else "removed"
    for entry in removed:
        click.echo(f"{verb} {entry.name}  {size_text(entry.num_bytes)}")
    gone = {entry.name for entry in removed}
    left = [entry for entry in entries(cache) if entry.name not in gone]
    stays = f"; {size_text(sum(entry.num_bytes for entry in left))} stay" if left else ""
    click.echo(f"{verb} {size_text(sum(entry.num_bytes for entry in removed))}{stays}")
    return 0
