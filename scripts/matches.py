"""Rule matches: filter the flows and join all sources into the table of matches."""

from everypoint.stages import job, matches

job.run(
    snakemake,
    matches.run,
    meta=snakemake.input.meta,
    flow=job.several(snakemake, "flow"),
    sparse=job.several(snakemake, "sparse"),
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
