"""The data sets of the benchmark (table 4 of Deshpande et al. 2021): catalogue, readers of the published archives, and preparation."""
