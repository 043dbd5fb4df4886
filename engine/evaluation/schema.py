"""The columns of the decision log.

One row a decision, with its candidates and the chosen among them as lists. Columns may be added, at the end and
nullable, so that older files stay readable; none changes its meaning.
"""

from typing import Final

import pyarrow as pa

_CANDIDATE: Final = pa.struct(
    [
        pa.field("offer", pa.string(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),
        ("reason", pa.string()),
        *[
            (name, pa.float64())
            for name in (
                "propensity",
                "low",
                "high",
                "opt_out",
                "value",
                "weight",
                "cost",
                "priority",
                "deviation",
                "chance",
            )
        ],
    ]
)
_CHOSEN: Final = pa.struct(
    [
        pa.field("offer", pa.string(), nullable=False),
        pa.field("rank", pa.int16(), nullable=False),
        ("selection_probability", pa.float64()),
    ]
)
_RESPONSE: Final = pa.struct(
    [
        pa.field("type", pa.string(), nullable=False),
        pa.field("at", pa.timestamp("ms", tz="UTC"), nullable=False),
    ]
)
SCHEMA: Final = pa.schema(
    [
        pa.field("decision_id", pa.string(), nullable=False),
        pa.field("customer", pa.string(), nullable=False),
        pa.field("at", pa.timestamp("ms", tz="UTC"), nullable=False),
        ("placement", pa.string()),
        ("channel", pa.string()),
        ("action", pa.string()),
        ("reason", pa.string()),
        ("grp", pa.string()),
        ("policy_version", pa.string()),
        ("model_version", pa.string()),
        ("alpha", pa.float64()),
        ("inputs", pa.map_(pa.string(), pa.float64())),
        ("segment", pa.map_(pa.string(), pa.string())),
        ("candidates", pa.list_(_CANDIDATE)),
        ("chosen", pa.list_(_CHOSEN)),
        ("outcome", pa.string()),
        ("outcome_at", pa.timestamp("ms", tz="UTC")),
        ("reward", pa.float64()),
        ("outcome_value", pa.float64()),
        ("opted_out", pa.bool_()),
        ("delivered", pa.bool_()),
        ("seen", pa.bool_()),
        ("responses", pa.list_(_RESPONSE)),
        ("untried", pa.list_(pa.string())),
    ],
)
"""One row a decision. `low` and `high` are the propensity at `alpha` deviations below and above it; `alpha` is
the exploration setting of the policy that decided (null: taken to be the judged policy's own). `responses` are the
customer's accepts and purchases within the attribution window, whether they named the decision or not: the one rule
for everybody, the control group included (null: not recorded). `untried` are the offers that the model knew so little
of that they shared in the floor like the best (null: none)."""
FIRST: Final = SCHEMA.names.index("responses")
"""Columns that every file has; the ones behind them came later."""
KEPT: Final = pa.schema([*SCHEMA, ("record", pa.binary())])
"""What the archive writes: beside the columns the decision's own record, without the customer's id, for
`GET /v1/decisions` to read once it has left the store; exports leave it out."""
