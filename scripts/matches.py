"""Rule matches: filter the flows and join all sources into the table of matches."""

from everypoint.stages import job, matches


def several(name):
    """The files of an input that may be absent, one file or many."""
    found = snakemake.input.get(name, [])
    return [found] if isinstance(found, str) else list(found)


job.run(
    snakemake,
    matches.run,
    meta=snakemake.input.meta,
    flow=several("flow"),
    sparse=several("sparse"),
    features=snakemake.input.get("features"),
    frames=snakemake.input.get("frames"),
    depth=snakemake.input.get("depth"),
    options=snakemake.params.options,
    seed=snakemake.params.seed,
    output=snakemake.output.matches,
    statistics=snakemake.output.statistics,
    device=snakemake.config["runtime"]["device"],
    threads=snakemake.threads,
)
