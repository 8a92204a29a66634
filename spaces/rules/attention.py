"""Scaled dot-product attention."""

from spaces.channels import Dims
from spaces.ledger import sizes
from spaces.step import Rule, Step


def attention(step: Step) -> list[Dims]:
    """Query and key share heads and width, key and value share heads and positions."""
    query, key, value = step["query"], step["key"], step["value"]
    q, k, v = step.dims(query), step.dims(key), step.dims(value)
    for other in (k, v):
        for left, right in zip(q[:-2], other[:-2], strict=True):
            step.tie(left, right)
    step.tie(q[-1], k[-1], "is multiplied with channels that are given")
    for ids in (k[-2], v[-2]):
        step.freeze(ids, "is attended over")
    *heads, rows, width = sizes(query, q)
    columns = sizes(key, k)[-2]
    step.flops(2, [*heads, rows, width, columns])
    step.flops(2, [*heads, rows, columns, sizes(value, v)[-1]])
    return [(*q[:-1], v[-1])]


RULES: dict[str, Rule] = dict.fromkeys(
    [
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_cudnn_attention",
        "_scaled_dot_product_fused_attention_overrideable",
    ],
    attention,
)
