"""Rule shots: find where a video is cut."""

from everypoint.stages import job, shots

job.run(
    snakemake,
    shots.run,
    entry=snakemake.params.entry,
    options=snakemake.params.options,
    output=snakemake.output[0],
)
