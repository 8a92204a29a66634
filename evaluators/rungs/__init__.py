"""How thoroughly a candidate is evaluated: a small table of rungs, cheapest first."""
