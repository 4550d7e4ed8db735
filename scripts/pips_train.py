"""Rule pips_train: train PIPs++ on exported clips."""

from everypoint.stages import job, pips_train

job.run(
    snakemake,
    pips_train.run,
    options={**snakemake.params.options, **snakemake.config["runtime"]["pips"]["train"]},
    weights=snakemake.input.get("weights"),
    seed=snakemake.params.seed,
    output=snakemake.output[0],
    device=snakemake.config["runtime"]["device"],
    threads=1,
)
