"""What each ATen operator does to channels, as one table: operator -> rule.

A rule sees an executed operator (`Step`), ties and freezes channel ids and returns the ids along the outputs'
dimensions. An operator without a rule freezes whatever it touches.
"""

from functools import cache

import torch

from spaces.rules import attention, elementwise, indexing, joining, matmul, norms, reductions, shapes, spatial
from spaces.step import Rule

TABLE: dict[str, Rule] = {
    **attention.RULES,
    **elementwise.RULES,
    **indexing.RULES,
    **joining.RULES,
    **matmul.RULES,
    **norms.RULES,
    **reductions.RULES,
    **shapes.RULES,
    **spatial.RULES,
}


@cache
def rule_for(func: torch._ops.OpOverload) -> Rule | None:
    """The operator's rule, in place (`relu_`) or not; what ATen itself calls pointwise needs no entry."""
    namespace, name = func._schema.name.split("::")
    name = name.rstrip("_")
    rule = TABLE.get(name) if namespace == "aten" else None
    plain = getattr(
        getattr(torch.ops.aten, name, None), func._overloadname, None
    )  # in place, some lack the tag
    if rule is None and torch.Tag.pointwise in {*func.tags, *getattr(plain, "tags", ())}:
        return elementwise.pointwise
    return rule
