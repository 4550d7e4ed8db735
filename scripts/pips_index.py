"""Rule pips_index: list the clips that are exported."""

from everypoint.stages import job, pips_export

job.run(
    snakemake,
    pips_export.index,
    options=snakemake.params.options,
    seed=snakemake.params.seed,
    output=snakemake.output[0],
)
