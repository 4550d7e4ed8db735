"""Rule pips_measure: PIPs++ on one annotated data set."""

from everypoint.stages import job, pips_test

runtime = snakemake.config["runtime"]
job.run(
    snakemake,
    pips_test.measure,
    name=snakemake.wildcards.testset,
    options=snakemake.params.options,
    memory_gib=runtime["pips"]["memory_gib"],
    weights=snakemake.input.get("weights"),
    output=snakemake.output[0],
    device=runtime["device"],
    threads=snakemake.threads,
)
