#!/usr/bin/env python3
"""Races vector search in process against faiss-cpu, hnswlib and usearch: one thread, one query per call.

Usage: bench_peers FOLDER SET SEARCH_BENCH [ROUNDS]

Every engine is a process of its own and answers rounds over all queries. For each the smallest effort is chosen that
reaches recall@10 of .99, judged here by exact scores; then rounds go in turn, so that whatever else the machine does
hits all alike, and the ratios of a round are compared, not times of different minutes. FAISS reads the very file that
we published; hnswlib and usearch build their own with the same parameters, kept beside it.
"""
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

DIMENSION, K, LINKS, EF_CONSTRUCTION = 384, 10, 32, 200
RECALL = 0.99
EFFORTS = [10, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 72, 80, 96, 112, 128, 144, 160, 192, 224, 256, 320, 384, 512]
# The instruction set that our own code is compiled for.
LEVEL = "AVX2"


# === workers ===

def load(folder, name, what):
    import numpy
    return numpy.fromfile(folder / f"{name}.{what}.f32", dtype=numpy.float32).reshape(-1, DIMENSION)


def open_faiss(folder, name):
    import faiss
    import numpy
    faiss.omp_set_num_threads(1)
    index = faiss.read_index(str(folder / name / "vectors.faiss"))
    scores, rows = numpy.empty((1, K), dtype=numpy.float32), numpy.empty((1, K), dtype=numpy.int64)
    to_scores, to_rows = faiss.swig_ptr(scores), faiss.swig_ptr(rows)

    # One level below faiss.Index.search, whose checks of types and shapes would be counted against FAISS.
    def at(effort):
        parameters = faiss.SearchParametersHNSW(efSearch=effort)

        def search(query):
            index.search_c(1, faiss.swig_ptr(query), K, to_scores, to_rows, parameters)
            return rows[0]
        return search
    return at, {"version": faiss.__version__, "options": faiss.get_compile_options().strip()}


def open_hnswlib(folder, name):
    import hnswlib
    path = folder / f"{name}.hnswlib"
    index = hnswlib.Index(space="ip", dim=DIMENSION)
    if path.exists():
        index.load_index(str(path))
    else:
        base = load(folder, name, "base")
        index.init_index(max_elements=len(base), M=LINKS, ef_construction=EF_CONSTRUCTION, random_seed=1)
        index.add_items(base, num_threads=os.cpu_count())
        index.save_index(str(path))
    index.set_num_threads(1)

    def at(effort):
        index.set_ef(max(effort, K))
        return lambda query: index.knn_query(query, K, num_threads=1)[0][0]
    return at, {}


def open_usearch(folder, name):
    import numpy
    import usearch
    from usearch.index import Index
    path = folder / f"{name}.usearch"
    index = Index(ndim=DIMENSION, metric="ip", dtype="f32", connectivity=LINKS, expansion_add=EF_CONSTRUCTION)
    if path.exists():
        index.load(str(path))
    else:
        base = load(folder, name, "base")
        index.add(numpy.arange(len(base)), base, threads=os.cpu_count())
        index.save(str(path))

    def at(effort):
        index.expansion_search = effort
        return lambda query: index.search(query, K, threads=1).keys
    return at, {"version": usearch.__version__, "options": str(index.hardware_acceleration)}


def worker(engine, folder, name):
    # What the machine's own BLAS or OpenMP would do beside us is not what is measured.
    opened = {"faiss": open_faiss, "hnswlib": open_hnswlib, "usearch": open_usearch}[engine]
    at, about = opened(folder, name)
    queries = [query.reshape(1, -1) if engine != "usearch" else query for query in load(folder, name, "query")]
    print(json.dumps({"name": engine, **about}), flush=True)
    clock = time.perf_counter_ns
    for line in sys.stdin:
        asked = json.loads(line)
        search = at(asked["ef"])
        times, hits = [], []
        for query in queries:
            began = clock()
            rows = search(query)
            times.append((clock() - began) / 1e3)
            if asked.get("hits"):
                hits.append([int(row) for row in rows])
        print(json.dumps({"times_us": times, "hits": hits}), flush=True)


# === the race ===

class Engine:
    def __init__(self, name, command, **environment):
        single = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        began = time.monotonic()
        self.process = subprocess.Popen(command, env={**os.environ, **single, **environment}, text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.name, self.about = name, json.loads(self.process.stdout.readline())
        print(f"  {name}: open after {time.monotonic() - began:.1f} s {self.about.get('options', '')}", flush=True)
        self.effort, self.recall, self.rounds = None, 0.0, []

    def round(self, effort, hits=False):
        print(json.dumps({"ef": effort, "hits": hits}), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def choose(self, judge):
        """The smallest effort that is good enough; recall grows with effort, so halving finds it."""
        low, high = 0, len(EFFORTS) - 1
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if judge(self.round(EFFORTS[middle], True)["hits"]) >= RECALL else (middle + 1, high)
        self.effort = EFFORTS[low]
        self.recall = judge(self.round(self.effort, True)["hits"])

    def measure(self):
        times = sorted(self.round(self.effort)["times_us"])
        at = lambda share: times[min(len(times) - 1, int(share * len(times)))]
        self.rounds.append({"mean": statistics.fmean(times), "p50": at(0.5), "p99": at(0.99)})

    def median(self, what):
        return statistics.median(round[what] for round in self.rounds)

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def judge_of(base, queries, allowed):
    """Recall by score: two rows with one text are interchangeable."""
    import numpy
    scores = queries @ base.T
    scores[:, ~allowed] = -numpy.inf
    worst = numpy.partition(scores, -K, axis=1)[:, -K] - 1e-6

    def judge(hits):
        good = sum(int((scores[n, rows] >= worst[n]).sum()) for n, rows in enumerate(hits))
        return good / (len(hits) * K)
    return judge


def race(folder, name, search_bench, rounds):
    import numpy
    base, queries = load(folder, name, "base"), load(folder, name, "query")
    print(f"== {name}: {len(base)} x {DIMENSION}, {len(queries)} queries, top {K}, recall@{K} at least {RECALL}, "
          f"one thread, one query per call, median of {rounds} rounds in turn", flush=True)
    all_rows = numpy.ones(len(base), dtype=bool)
    live = numpy.arange(len(base)) % 100 != 37
    python = [sys.executable, __file__, "worker"]
    peer = lambda engine: [*python, engine, str(folder), name]
    ours = [search_bench, "serve", str(folder), name]
    engines = [Engine("verdigris", ours), Engine("verdigris, 1 % dead", [*ours, "dead"]),
               Engine(f"faiss-cpu, {LEVEL}", peer("faiss"), FAISS_SIMD_LEVEL=LEVEL),
               Engine("faiss-cpu, default", peer("faiss")),
               Engine("hnswlib", peer("hnswlib")), Engine("usearch", peer("usearch"))]
    judge, judge_live = judge_of(base, queries, all_rows), judge_of(base, queries, live)
    for engine in engines:
        engine.choose(judge_live if "dead" in engine.name else judge)
    for n in range(rounds):
        # Each begins once in a while: whoever follows a loud neighbour must not always be the same.
        for engine in engines[n % len(engines):] + engines[:n % len(engines)]:
            engine.measure()
    for engine in engines:
        engine.end()
    report(name, len(base), engines)


def report(name, rows, engines):
    ours = engines[0]
    print(f"{'':22} {'ef':>4} {'recall':>7} {'mean us':>8} {'p50 us':>8} {'p99 us':>8} {'queries/s':>9}  ours is x times as fast (p50)")
    results = []
    for engine in engines:
        ratio = lambda what: statistics.median(e[what] / o[what] for e, o in zip(engine.rounds, ours.rounds))
        mean, p50, p99 = (engine.median(what) for what in ("mean", "p50", "p99"))
        print(f"{engine.name:22} {engine.effort:>4} {engine.recall:>7.4f} {mean:>8.1f} {p50:>8.1f} {p99:>8.1f} "
              f"{1e6 / mean:>9.0f}  {ratio('mean'):.2f} ({ratio('p50'):.2f})")
        results.append({"engine": engine.name, "ef": engine.effort, "recall": round(engine.recall, 4), "mean_us": round(mean, 1),
                        "p50_us": round(p50, 1), "p99_us": round(p99, 1), "ours_times_as_fast": round(ratio("mean"), 3)})
    mark = next(r for r in results if r["engine"].startswith("faiss-cpu, " + LEVEL))["ours_times_as_fast"]
    print(f"mark: at least 1.0 x faiss-cpu at {LEVEL}: {mark:.2f} {'met' if mark >= 1 else 'MISSED'}")
    print(json.dumps({"set": name, "rows": rows, "engines": results}))


def main():
    if sys.argv[1] == "worker":
        return worker(sys.argv[2], Path(sys.argv[3]), sys.argv[4])
    rounds = int(sys.argv[4]) if len(sys.argv) > 4 else 7
    return race(Path(sys.argv[1]), sys.argv[2], sys.argv[3], rounds)


if __name__ == "__main__":
    main()
