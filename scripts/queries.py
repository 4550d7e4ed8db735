"""Rule queries: choose the points to track."""

from everypoint.stages import job, queries

job.run(
    snakemake,
    queries.run,
    entry=snakemake.params.entry,
    options=snakemake.params.options,
    evaluate=snakemake.params.evaluate,
    shot=snakemake.params.shot,
    frames=snakemake.input.frames,
    output=snakemake.output.queries,
)
