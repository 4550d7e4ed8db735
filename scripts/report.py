"""Rule report: one page over all videos and presets."""

from everypoint.stages import job, report

job.run(
    snakemake,
    report.run,
    products=snakemake.input,
    presets=snakemake.params.presets,
    options=snakemake.params.options,
    page=snakemake.output.page,
    summary=snakemake.output.summary,
)
