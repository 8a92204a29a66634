"""The meta-prior: what past campaigns say about a network and data set that none of them has seen."""
