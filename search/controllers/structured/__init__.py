"""The controller that models damage: what pruning costs, group by group, with honest noise."""
