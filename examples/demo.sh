#!/usr/bin/env bash
# The main job, end to end, on one machine and without any server: a catalog goes in as events, becomes a published
# FAISS release, answers gRPC searches, and follows live changes. Usage: examples/demo.sh PATH-TO-VERDIGRIS
set -euo pipefail
cd "$(dirname "$0")/.."
verdigris=$(realpath "$1")
data=$(mktemp -d -t verdigris-demo-XXXXXX)
log=$data/up.log
export VERDIGRIS_DATA=$data/folder

bold() { if [ -t 1 ]; then printf '\033[1m%s\033[0m\n' "$1"; else printf '%s\n' "$1"; fi; }
act() { printf '\n'; bold "== $1"; [ $# -lt 2 ] || printf '%s\n' "${@:2}"; }
run() { printf '\n$ verdigris %s\n' "$(printf '%q ' "$@" | sed "s/ $//; s/\\\\ / /g")"; "$verdigris" "$@"; }
field() { python3 -c 'import json,sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }

stop() {
  if [ -n "${up:-}" ] && kill -0 "$up" 2>/dev/null; then kill -TERM "$up"; wait "$up" || true; fi
  rm -rf "$data"
}
trap stop EXIT

act "1. One process, no server" \
  "'up' runs every role in one process: ingest, indexer, search. All it knows lies in one folder."
"$verdigris" up --grpc 127.0.0.1:0 --http 127.0.0.1:0 --json >"$data/addresses" 2>"$log" &
up=$!
for _ in $(seq 300); do
  [ -s "$data/addresses" ] && break
  kill -0 "$up" 2>/dev/null || { cat "$log"; exit 1; }
  sleep 0.1
done
grpc=$(field grpc <"$data/addresses")
http=$(field http <"$data/addresses")
export VERDIGRIS_SERVER=$grpc
printf 'gRPC on %s, metrics and health on %s\n' "$grpc" "$http"

act "2. A catalog goes in as events" \
  "Each product is an event in a durable log. --wait returns when all of them are searchable." \
  "Nothing was declared: any field of a product is kept, returned and filterable."
run ingest examples/catalog.jsonl --wait

act "3. Search by meaning" "No product says 'keep drinks cold at the beach'; the embedding model knows what does."
run search 'keep drinks cold at the beach' --top-k 3

act "4. Search by part number, however it is typed" \
  "The same answer with other punctuation: words and codes are scored beside the vectors, in one sum."
run search 'kt 745 b' --top-k 3

act "5. Filters over fields that nobody declared" "AIP-160, evaluated as a row bitmap inside the vector search: never fewer hits than exist."
run search 'cordless drill' --top-k 3 --filter 'price < 200 AND stock > 0 AND attributes.voltage_v = 18'

act "6. Live changes" \
  "A price patch, a new product, a deletion, a stale event, a duplicate and more arrive as CloudEvents. Each release is" \
  "published whole or not at all. The stale event and the duplicate change nothing; an event of an unknown type is refused" \
  "with its reason, and the rest is taken."
python3 examples/publish.py --retime examples/events.jsonl >"$data/events.jsonl"
run ingest "$data/events.jsonl" --wait || [ $? -eq 3 ]
run get KT-745/B
run search 'keep drinks cold at the beach' --top-k 2

act "7. A poison event" \
  "One that only the indexer can judge, such as an event from the future, is set aside with its reason; the stream goes on."
python3 -c 'import datetime, json; print(json.dumps({"id": "KT-745/B", "_op": "patch", "price": 1, "_time":
  (datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=1)).isoformat()}))' >"$data/poison.jsonl"
run ingest "$data/poison.jsonl" --wait || [ $? -eq 3 ]
run dead-letters list
run releases list

act "8. A bad feed is stopped" \
  "A broken export deletes most of the catalog. The guards judge each release with what waits behind it: this one is" \
  "written and named, and not served, until a person decides. Searches go on from the release before."
python3 -c 'import json, sys
for line in open("examples/catalog.jsonl").readlines()[:110]:
    print(json.dumps({"id": json.loads(line)["id"], "_op": "delete"}))' >"$data/bad-feed.jsonl"
run ingest "$data/bad-feed.jsonl" --wait || [ $? -eq 4 ]
run staged show | head -12
run search 'kt 745 b' --top-k 1
run staged reject --reason 'a broken export' --actor demo
run patch KT-612 '{"stock": 7}' --wait
run collections show

act "9. Back to an older release, and on again" \
  "One swing publishes the old content and holds publishing; what came since is read again when somebody resumes."
run releases diff 1
run releases rollback 1 --reason 'to look at the launch prices' --actor demo
run get KT-745/B
run releases resume
run patch KT-745/B '{"stock": 20}' --wait
run explain-document KT-745/B --query 'kt 745 b'

act "10. Another index, rolled out and rolled back" \
  "New settings embed other fields and take another index type. All rows are written anew beside what is served, follow" \
  "it event by event, pass the gates, and answer from one swap on, without a failed request. One command goes back."
"$verdigris" settings show --json | python3 -c 'import json, sys
settings = json.load(sys.stdin)["settings"]
settings["text"]["embed"] = [{"fields": ["title", "name"]}, {"fields": ["category"]}]
settings["ann"]["index_type"] = "HNSW32,SQ8,RFlat"
print(json.dumps(settings))' >"$data/next.json"
run rollout hold --reason 'to look at the candidate first' --actor demo >/dev/null
run rebuild --settings "$data/next.json" --reason 'titles and categories alone' --wait
run search 'keep drinks cold at the beach' --top-k 3 --compare
run rollout resume --actor demo >/dev/null
for _ in $(seq 100); do
  "$verdigris" rollout status --wait --timeout 30 --json >"$data/rollout.json" || true
  [ "$(field phase <"$data/rollout.json")" = baking ] && break
  sleep 0.2
done
run rollout status
run rollout rollback --reason 'the old answers were better' --actor demo | head -5
run rollout history

act "11. The index is a stock FAISS file" "Any release can be exported; three lines of Python with faiss-cpu search it."
run releases export --layout faiss --to "$data/export"
ls -l "$data/export"

act "12. Metrics" "What an operator sees (some lines of $http/metrics):"
python3 - "$http" <<'PYTHON'
import sys, urllib.request
text = urllib.request.urlopen(sys.argv[1] + "/metrics").read().decode()
wanted = ("verdigris_release_generation", "verdigris_release_documents", "verdigris_indexer_events_total")
print("\n".join(line for line in text.splitlines() if line.startswith(wanted)))
PYTHON

act "How to go on by hand" \
  "  $1 up --data ./verdigris-data          # one terminal" \
  "  $1 ingest examples/catalog.jsonl --wait # another" \
  "  $1 search 'something to drill concrete with'" \
  "  $1 --help" \
  "README.md tells the rest; docs/events.md how your catalog system publishes."
