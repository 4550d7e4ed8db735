"""Rule frames: decode a video, or one shot of it."""

from everypoint.stages import frames, job

job.run(
    snakemake,
    frames.run,
    entry=snakemake.params.entry,
    options=snakemake.params.options,
    shot=snakemake.params.shot,
    shots=snakemake.input.get("shots"),
    output=snakemake.output.frames,
)
