"""Rule matches: filter the flows into the table of matches."""

from everypoint.stages import job, matches

flow = snakemake.input.flow
job.run(
    snakemake,
    matches.run,
    flow=[flow] if isinstance(flow, str) else list(flow),
    features=snakemake.input.get("features"),
    options=snakemake.params.options,
    seed=snakemake.params.seed,
    output=snakemake.output.matches,
    statistics=snakemake.output.statistics,
    device=snakemake.config["runtime"]["device"],
    threads=snakemake.threads,
)
