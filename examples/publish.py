#!/usr/bin/env python3
"""How a catalog system makes events: reads a CSV file, prints CloudEvents 1.0 as JSON Lines. Standard library only.

    python3 examples/publish.py examples/products.csv | verdigris ingest - --wait
    python3 examples/publish.py --retime examples/events.jsonl | verdigris ingest - --wait

A row's `action` is upsert (the whole document), patch (only the cells that are filled) or delete. A column
`attributes.x` becomes {"attributes": {"x": ...}}. An empty cell is left out, never sent as null: null removes a field.

The event's time is its revision, so it must say when the product changed, not when this program ran. It comes from the
column `updated_at` (RFC 3339) and falls back to now where that is empty.

--retime takes events that exist already and moves all their times by one amount, so that the newest is now. Order and
distances stay as they were: what was stale stays stale.
"""

import argparse
import csv
import json
import sys
import uuid
from datetime import datetime, timezone

TYPES = {action: f"dev.verdigris.document.{action}.v1" for action in ("upsert", "patch", "delete")}
CONTROL = ("action", "sku", "updated_at")
# What is not named here is text: a part number such as 0815 must not lose its zero.
NUMBERS = {"price": float, "stock": int}


def cell(column, text):
    """The typed value of one cell. Attributes are JSON where they parse as JSON, else text."""
    if column in NUMBERS:
        return NUMBERS[column](text)
    if column.startswith("attributes."):
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text


def document(row):
    """The fields of a row: empty cells left out, dotted columns nested."""
    fields = {}
    for column, text in row.items():
        if column in CONTROL or not text:
            continue
        head, _, leaf = column.partition(".")
        if leaf:
            fields.setdefault(head, {})[leaf] = cell(column, text)
        else:
            fields[column] = cell(column, text)
    return fields


def event(row, source, collection, now):
    """One CloudEvent. Its id names the change, so that a row sent twice is the same event twice."""
    if row["action"] not in TYPES:
        raise ValueError(f"action {row['action']!r} must be one of {', '.join(TYPES)}")
    if not row["sku"]:
        raise ValueError("sku is empty")
    time = row.get("updated_at") or now
    made = {
        "specversion": "1.0",
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, json.dumps([source, row, time], sort_keys=True))),
        "source": source,
        "type": TYPES[row["action"]],
        "subject": row["sku"],
        "time": time,
        "collection": collection,
    }
    if row["action"] != "delete":
        made["datacontenttype"] = "application/json"
        made["data"] = document(row)
    return made


def from_csv(file, source, collection):
    """Events for the rows of a CSV file; stops at the first row that cannot be an event, naming its line."""
    now = datetime.now(timezone.utc).isoformat()
    reader = csv.DictReader(file)
    for row in reader:
        if None in row or None in row.values():
            sys.exit(f"{file.name}:{reader.line_num}: has more or fewer cells than the header")
        try:
            yield event(row, source, collection, now)
        except KeyError as column:
            sys.exit(f"{file.name}:1: has no column {column}")
        except ValueError as error:
            sys.exit(f"{file.name}:{reader.line_num}: {error}")


def retime(file):
    """The events of a JSON Lines file, all moved by the same amount, the newest to now."""
    events = [json.loads(line) for line in file if line.strip()]
    # Python before 3.11 does not read the Z.
    times = [datetime.fromisoformat(e["time"].replace("Z", "+00:00")) for e in events]
    shift = datetime.now(timezone.utc) - max(times)
    for made, time in zip(events, times):
        yield {**made, "time": (time + shift).isoformat()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=argparse.FileType(encoding="utf-8"), help="CSV, or JSON Lines with --retime")
    parser.add_argument("--retime", action="store_true", help="move existing events to now")
    parser.add_argument("--source", default="/catalog/csv", help="the CloudEvents source (default: %(default)s)")
    parser.add_argument("--collection", default="products", help="default: %(default)s")
    args = parser.parse_args()
    events = retime(args.file) if args.retime else from_csv(args.file, args.source, args.collection)
    for made in events:
        print(json.dumps(made, ensure_ascii=False))


if __name__ == "__main__":
    main()
