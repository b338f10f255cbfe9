"""Bad releases on a cluster: each stops at its gate or its guard, says so, and traffic stays where it was.

Candidates that a bug would make are planted by the example cluster_bad_release; one that is slow is what settings can do.
Deliberately absent: what the gates measure, which the tests of the search role hold against a hundred bad candidates.
"""

import contextlib
import json
import pathlib

import way
from cluster import TARGET, check, say, scratch, wait_until

# Below about two thousand rows a segment has no graph.
DOCUMENTS, DELETED, FEED_DELETES = 6_000, 60, 3_000
# The kind of bad candidate, and the gate that must speak against it.
KINDS = {"graph": "recall", "documents": "documents", "model": "vectors", "deletes": "deletes"}
NOUNS = ["drill", "saw", "hammer", "pipe", "valve", "cable", "lamp", "clamp"]
MATERIALS = ["copper", "steel", "oak", "brass", "rubber", "glass", "nylon"]
MAKERS = ["Kestrel", "Borwin", "Halden", "Ostrava", "Merlin"]
# Many times slower than a search of a fraction of a millisecond is still below the limit that is the default.
GATES = {"samples": 100, "latency_floor_ms": 1}
ANN = {"ef_search": 24}
# Each search looks at each coordinate of each vector.
SLOW = {"embedder": {"provider": "hash", "dimension": 4096}, "ann": {"index_type": "Flat"}}


def product(number):
    title = f"{MATERIALS[number // 8 % 7]} {NOUNS[number % 8]} number {number} size {number * 7 % 101}"
    return {"id": f"p-{number}", "title": title, "brand": MAKERS[number // 56 % 5], "price": number % 50}


def ingest(cluster, events, *more):
    with scratch() as folder:
        file = pathlib.Path(folder) / "events.jsonl"
        file.write_text("\n".join(map(json.dumps, events)))
        return way.indexer(cluster, "ingest", file, *more)


def settings(cluster, *words, **changed):
    with scratch() as folder:
        file = pathlib.Path(folder) / "settings.json"
        file.write_text(json.dumps({**way.SETTINGS, **changed}))
        return way.indexer(cluster, *words, file)


def begin(cluster):
    """More products, of which some go again: a graph, and deleted documents that could come back."""
    settings(cluster, "settings", "set", ann=ANN)
    ingest(cluster, map(product, range(DOCUMENTS)), "--wait")
    ingest(cluster, ({"id": f"p-{number}", "_op": "delete"} for number in range(DELETED)), "--wait")
    for number in range(100, 140):
        cluster.verdigris(cluster.address(way.COLLECTION, 7700), "search", product(number)["title"])


def plant(cluster, kind):
    server = cluster.address(f"{way.RELEASE}-s3", 7070)
    keys = ["AWS_ACCESS_KEY_ID=tests", "AWS_SECRET_ACCESS_KEY=tests-secret"]
    store = f"s3://verdigris/{way.RELEASE}"
    program = TARGET / "debug/examples/cluster_bad_release"
    said = cluster.call("env", *keys, program, "--store", store, "--endpoint", server, "--kind", kind)
    return json.loads(said)["lineage"]


@contextlib.contextmanager
def traffic_stays(cluster):
    target, lineage = way.selected(cluster), way.status(cluster)["lineage"]
    yield
    check((way.selected(cluster), way.status(cluster)["lineage"]) == (target, lineage), "traffic stays where it was")


def refused_by(cluster, gate, lineage=None):
    """Waits until the status says which gates speak against the candidate; gives it up."""

    def look():
        verdict = way.status(cluster).get("verdict") or {}
        return lineage in (None, verdict.get("lineage")) and not verdict.get("passed", True) and verdict

    verdict, seconds = wait_until("a verdict", look, 180)
    wait_until("a refusal", lambda: way.status(cluster).get("phase") == "Refused", 30)
    against = verdict["against"]
    stopped = any(text.startswith(f"{gate}:") for text in against)
    check(stopped, f"the gate {gate} stops it after {seconds:.0f} s: {'; '.join(against)[:300]}")
    way.plugin(cluster, "abort", way.COLLECTION)
    wait_until("a settled rollout", lambda: way.is_settled(cluster))


def candidates(cluster):
    for kind, gate in KINDS.items():
        say(f"a candidate with bad {kind}")
        wait_until("a settled rollout", lambda: way.is_settled(cluster))
        with traffic_stays(cluster):
            refused_by(cluster, gate, plant(cluster, kind))


def slow(cluster):
    say("a candidate that is slow")
    wait_until("a settled rollout", lambda: way.is_settled(cluster))
    patch = json.dumps({"spec": {"rollout": {"gates": GATES}}})
    cluster.kubectl("patch", "collection", way.COLLECTION, "--type=merge", "--patch", patch)
    with traffic_stays(cluster):
        words = ["rebuild", "--reason", "a slow one", "--wait", "--timeout", "120", "--settings"]
        settings(cluster, *words, **SLOW)
        refused_by(cluster, "latency")


def feed_that_deletes(cluster):
    """Half of the documents deleted by a feed: the indexer stages that release, and nobody is answered from it."""
    say("a feed that deletes half of all documents")
    with traffic_stays(cluster):
        ingest(cluster, ({"id": f"p-{number}", "_op": "delete"} for number in range(DELETED, FEED_DELETES)))
        shown, _ = wait_until("a staged release", lambda: way.indexer(cluster, "staged", "show"))
        say(f"ok: staged, not served: {json.dumps(shown)[:200]}")
        kept = cluster.verdigris(cluster.address(way.COLLECTION, 7700), "get", f"p-{FEED_DELETES - 1}")
        check(kept, "a document of the feed is still in the answers")
        way.indexer(cluster, "staged", "reject", "--reason", "a broken feed")
        way.nothing_is_lost(cluster, way.patches(cluster, [4000]))
        kept = cluster.verdigris(cluster.address(way.COLLECTION, 7700), "get", f"p-{FEED_DELETES - 1}")
        check(kept, "after the word of a person all of its deletes are set aside")
