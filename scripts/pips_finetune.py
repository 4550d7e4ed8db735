"""Rule pips_finetune: train PIPs++ further, on longer and larger clips."""

from everypoint.stages import job, pips_train

job.run(
    snakemake,
    pips_train.run,
    options={**snakemake.params.options, **snakemake.config["runtime"]["pips"]["finetune"]},
    weights=snakemake.input.get("weights"),
    seed=snakemake.params.seed,
    output=snakemake.output[0],
    device=snakemake.config["runtime"]["device"],
    threads=1,
)
