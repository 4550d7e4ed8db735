"""Rule pips_clips: training clips of one shard."""

from everypoint.stages import job, pips_export

job.run(
    snakemake,
    pips_export.clips,
    index=snakemake.input.index,
    shard=snakemake.wildcards.shard,
    output=snakemake.output[0],
)
