"""Rule evaluate: measure the tracks against ground truth."""

from everypoint.stages import evaluate, job

job.run(
    snakemake,
    evaluate.run,
    frames=snakemake.input.frames,
    annotations=snakemake.input.annotations,
    tracks=snakemake.input.tracks,
    options=snakemake.params.options,
    video=snakemake.wildcards.video,
    preset=snakemake.wildcards.preset,
    output=snakemake.output[0],
)
