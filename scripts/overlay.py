"""Rule overlay: draw the tracks over the frames."""

from everypoint.stages import job, overlay

job.run(
    snakemake,
    overlay.run,
    frames=snakemake.input.frames,
    tracks=snakemake.input.tracks,
    options=snakemake.params.options,
    overlay=snakemake.output.overlay,
    trails=snakemake.output.trails,
)
