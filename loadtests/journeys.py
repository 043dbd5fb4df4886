"""Six months of store baskets through a running engine, and the features recomputed independently.

`python -m loadtests.journeys --data FOLDER` makes one `store_purchase` of each basket of `complete_journey`,
replays them with all times shifted to end now, and compares the features of 1,000 households.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet

from features.event import format_time, parse_time
from loadtests.rewards import command, compare, wait_until_folded, write_lines
from loadtests.server import running

SAMPLE = 1_000
FILES = {
    "policy.yaml": "policy: journeys\ntimezone: America/New_York\ncurrency: USD\nweek_starts: sunday\n",
    "channels.yaml": "channels:\n  till: {kind: inbound}\nplacements:\n  receipt: {channel: till, slots: 1}\n",
    "offers.yaml": "categories:\n  promotion: {}\noffers:\n"
    "  - {id: coupon, category: promotion, placements: [receipt], value: 2.0,"
    " eligible: features.baskets_30d >= 1}\n",
    "features.yaml": "features:\n"
    "  baskets_7d: {count: [store_purchase], within: 7d}\n"
    "  baskets_30d: {count: [store_purchase], within: 30d}\n"
    "  baskets_180d: {count: [store_purchase], within: 180d}\n"
    "  spend_30d: {sum: amount, of: [store_purchase], within: 30d}\n"
    "  spend_180d: {sum: amount, of: [store_purchase], within: 180d}\n"
    "  basket: {mean: amount, of: [store_purchase], within: 90d}\n"
    "  stores_180d: {distinct: store, of: [store_purchase], within: 180d}\n"
    "  last_store: {last: store, of: [store_purchase]}\n"
    "  stores: {top: store, of: [store_purchase], half_life: 30d, keep: 3}\n"
    "  since_basket: {since: [store_purchase]}\n",
}


def baskets(data: Path) -> list[dict[str, Any]]:
    """Return one event a basket, at the basket's own time."""
    table = pyarrow.parquet.read_table(data / "transactions_jan-jun.parquet")
    keys = ["household_id", "basket_id", "store_id"]
    grouped = table.group_by(keys).aggregate([("sales_value", "sum"), ("transaction_timestamp", "max")])
    found = []
    for row in grouped.to_pylist():
        at = round(row["transaction_timestamp_max"].timestamp() * 1000)
        found.append(
            {
                "type": "store_purchase",
                "event_id": f"basket-{row['basket_id']}-{row['store_id']}",
                "customer_id": f"household-{row['household_id']}",
                "occurred_at": format_time(at),
                "channel": "till",
                "properties": {"amount": round(row["sales_value_sum"], 2), "store": str(row["store_id"])},
            }
        )
    return found


def main() -> None:
    """Replay and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the complete journey data")
    asked = parser.parse_args()
    lines = baskets(asked.data)
    shift = time.time_ns() // 1_000_000 - max(parse_time(line["occurred_at"]) for line in lines)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "policies"
        folder.mkdir()
        for name, text in FILES.items():
            (folder / name).write_text(text)
        file = Path(scratch) / "lines.ndjson.gz"
        shifted = [
            {**line, "occurred_at": format_time(parse_time(line["occurred_at"]) + shift)} for line in lines
        ]
        write_lines(file, shifted)
        with running("--policies", str(folder)) as tact:
            print(f"replay: {json.dumps(command('replay', str(file), '--url', tact.url, '--keep-times'))}")
            print(f"folded {wait_until_folded(tact):.2f} s after the last answer")
            wrong = compare(tact, folder, lines, shift, SAMPLE)
            print(f"features of {SAMPLE} households: {len(wrong)} wrong")
            found = command("audit", "--url", tact.url)
            print(f"audit: {len(found['breaches'])} breaches over {found['customers']} customers")
    for text in wrong[:10]:
        print("  wrong:", text)
    sys.exit(1 if wrong or found["breaches"] else 0)


if __name__ == "__main__":
    main()
