"""The rotary embedding that a config.json describes, in the words of transformers 4 (rope_theta, rope_scaling) and of 5
(rope_parameters)."""

from ...kernels.checks import shown
from ..rope import DividedScaling, LinearScaling, Llama3Scaling, ProportionalScaling, RopeScaling, YarnScaling
from .fields import Fields

_THETA = 10_000.0  # of transformers, where a configuration names none


def rope_of(fields: Fields, fraction: float = 1.0, theta: float = _THETA) -> tuple[float, RopeScaling | None]:
    """Theta, where the configuration names none the one given, and scaling. Both rope_scaling and rope_parameters are
    refused. A share of each head other than `fraction`, all of it in most families, is refused too: their code rotates
    that whatever a configuration says."""
    named = [name for name in ("rope_scaling", "rope_parameters") if fields.take(name, None)]
    if len(named) > 1:
        raise ValueError(f"{fields.origin}: rope_scaling beside rope_parameters: must be one of them")
    table = fields.table(named[0]) if named else None
    fields.expect("partial_rotary_factor", fraction)
    return rope_of_table(table, fields, fields.real("rope_theta", theta), fraction)


def rope_of_table(table: Fields | None, fields: Fields, theta: float, fraction: float = 1.0
                  ) -> tuple[float, RopeScaling | None]:
    """Theta and scaling of a table like rope_parameters, in which theta may be missing, or all of it."""
    if table is None:
        return theta, None
    if table.take("rope_type", None) != "proportional":  # which says so where half of a head does not turn
        table.expect("partial_rotary_factor", fraction)
    return table.real("rope_theta", theta), _scaling(table, fields)


def _scaling(table: Fields, fields: Fields) -> RopeScaling | None:
    kind = table.take("rope_type", None) or table.take("type", "default")
    table.take("type", None)  # beside rope_type, the same in an older word
    if kind == "default":
        found = None
    elif kind == "linear":
        found = LinearScaling(table.real("factor"))
    elif kind == "llama3":
        found = Llama3Scaling(table.real("factor"), table.real("low_freq_factor"), table.real("high_freq_factor"),
                              table.integer("original_max_position_embeddings"))
    elif kind == "yarn":
        original = table.integer("original_max_position_embeddings", None) or fields.integer("max_position_embeddings")
        found = YarnScaling(table.real("factor"), original, table.real("beta_fast", 32.0), table.real("beta_slow", 1.0),
                            table.real("attention_factor", None), table.flag("truncate", True))
    elif kind == "longrope":
        found = _divided(table)
    elif kind == "proportional":
        found = ProportionalScaling(table.real("partial_rotary_factor", 1.0), table.real("factor", 1.0))
    else:
        raise ValueError(f"{table.origin}: rope_type={shown(kind)}: must be one of default, linear, llama3, longrope, "
                         "proportional, yarn")
    table.check_all_read()
    return found


def _divided(table: Fields) -> DividedScaling:
    """LongRoPE divides by other numbers once a text is long, which needs other tables then: equal ones are taken."""
    divisors = table.take("short_factor")
    if not isinstance(divisors, list) or divisors != table.take("long_factor"):
        raise ValueError(f"{table.origin}: short_factor={shown(divisors)}: must be a list equal to long_factor")
    table.take("original_max_position_embeddings", None)
    return DividedScaling(tuple(divisors), table.real("attention_factor"))
