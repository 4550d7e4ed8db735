"""Rule export: the tracks in the format of another program."""

from everypoint.stages import export, job

job.run(
    snakemake,
    export.run,
    tracks=snakemake.input.tracks,
    kind=snakemake.wildcards.format,
    output=snakemake.output[0],
)
