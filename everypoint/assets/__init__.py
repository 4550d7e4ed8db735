"""Assets: weights, sample clips and data sets that are fetched by name, checked by hash and cached; never committed."""
