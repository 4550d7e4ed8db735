"""Rule pips_test: all tests of PIPs++ in one table."""

from everypoint.stages import job, pips_test

job.run(
    snakemake,
    pips_test.summary,
    results=list(snakemake.input),
    output=snakemake.output.summary,
    text=snakemake.output.table,
)
