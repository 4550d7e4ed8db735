"""Rule pips_export: count the training clips of all shards."""

from everypoint.stages import job, pips_export

job.run(
    snakemake,
    pips_export.summary,
    shards=list(snakemake.input),
    output=snakemake.output[0],
)
