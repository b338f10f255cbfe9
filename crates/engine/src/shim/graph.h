// The walk through a FAISS HNSW graph. FAISS builds and stores the graph; it is walked here, because FAISS' own walk
// allocates per search, writes global counters without a lock, spends its candidates on rows that the filter
// excludes, and does not fetch ahead, which alone is a third of the time.
#pragma once

#include "kernel.h"

namespace verdigris {

// The graph as it lies in the mapped file. Links of a row: 64 at level 0, then 32 for each higher level; -1 ends a
// level early. Opening has checked every link, so the walk reads without checks.
struct Graph {
    const uint8_t* links;
    Packed<uint64_t> offsets; // of each row's first link, and of the end
    uint32_t entry;
    int levels;

    static constexpr size_t LINKS = 32;

    static size_t first(int level) { return level == 0 ? 0 : LINKS * (level + 1); }
    static size_t count(int level) { return level == 0 ? 2 * LINKS : LINKS; }
    const uint8_t* of(uint32_t row, int level) const { return links + 4 * (offsets[row] + first(level)); }
};

struct WalkRequest {
    size_t rows;
    size_t ef;       // candidates kept at least
    size_t wanted;   // of them allowed ones, at least
    size_t pool_max; // candidates kept at most
    size_t scores_max; // scores computed at most, then the walk is given up
    Allowed allowed;
};

// Greedy descent to level 0.
template <class Score>
uint32_t descend(const Graph& graph, Score& score, float& best) {
    uint32_t nearest = graph.entry;
    best = score(nearest);
    for (int level = graph.levels - 1; level >= 1; level--) {
        for (;;) {
            const uint32_t before = nearest;
            const uint8_t* links = graph.of(before, level);
            for (size_t i = 0; i < Graph::count(level); i++) {
                const int32_t row = load<int32_t>(links + 4 * i);
                if (row < 0) {
                    break;
                }
                score.prefetch(row);
            }
            for (size_t i = 0; i < Graph::count(level); i++) {
                const int32_t row = load<int32_t>(links + 4 * i);
                if (row < 0) {
                    break;
                }
                const float found = score(row);
                if (found > best) {
                    best = found;
                    nearest = row;
                }
            }
            if (nearest == before) {
                break;
            }
        }
    }
    return nearest;
}

// Keeps candidates in one sorted array: the best `ef`, and beyond them as many as it takes to hold `wanted` allowed
// ones, so that a filter widens the walk by itself. Ends when every candidate kept has been expanded, and returns how
// many they are in `scratch.pool`; or 0 when it would cost more than the caller allows.
template <bool FILTERED, class Score>
size_t walk(const Graph& graph, Score& score, const WalkRequest& request, Scratch& scratch) {
    Visited& visited = scratch.visited;
    visited.begin(request.rows);
    uint8_t* marks = visited.marks.data();
    const uint8_t mark = visited.search;

    scratch.pool.resize(std::max(scratch.pool.size(), request.pool_max + 1));
    Candidate* pool = scratch.pool.data();
    float best;
    const uint32_t start = descend(graph, score, best);
    pool[0] = {best, start, 0};
    marks[start] = mark;
    size_t size = 1, allowed = request.allowed.has(start), next = 0, scores = 1;

    uint32_t fresh[2 * Graph::LINKS];
    while (next < size) {
        pool[next].expanded = 1;
        const uint8_t* links = graph.of(pool[next].row, 0);
        int count = 0;
        for (; count < int(2 * Graph::LINKS); count++) {
            const int32_t row = load<int32_t>(links + 4 * count);
            if (row < 0) {
                break;
            }
            __builtin_prefetch(marks + row);
        }
        size_t unseen = 0;
        for (int i = 0; i < count; i++) {
            const uint32_t row = load<uint32_t>(links + 4 * i);
            fresh[unseen] = row;
            unseen += marks[row] != mark;
            marks[row] = mark;
        }
        for (size_t i = 0; i < std::min(unseen, PREFETCH_ROWS); i++) {
            score.prefetch(fresh[i]);
        }
        size_t lowest = size;
        for (size_t i = 0; i < unseen; i++) {
            if (i + PREFETCH_ROWS < unseen) {
                score.prefetch(fresh[i + PREFETCH_ROWS]);
            }
            const float found = score(fresh[i]);
            const bool full = size >= request.ef && (!FILTERED || allowed >= request.wanted || size >= request.pool_max);
            if (full && !(found > pool[size - 1].score)) {
                continue;
            }
            Candidate* place = std::upper_bound(
                    pool, pool + size, found, [](float s, const Candidate& c) { return s > c.score; });
            std::memmove(place + 1, place, (pool + size - place) * sizeof(Candidate));
            *place = {found, fresh[i], 0};
            size++;
            lowest = std::min(lowest, size_t(place - pool));
            if (FILTERED) {
                allowed += request.allowed.has(fresh[i]);
                while (size > request.ef) {
                    const bool last = request.allowed.has(pool[size - 1].row);
                    if (size <= request.pool_max && allowed - last < request.wanted) {
                        break;
                    }
                    allowed -= last;
                    size--;
                }
            } else {
                size = std::min(size, request.ef);
            }
        }
        scores += unseen;
        if (scores > request.scores_max) {
            return 0;
        }
        next = std::min(lowest, next + 1);
        while (next < size && pool[next].expanded) {
            next++;
        }
        if (next < size) {
            prefetch(graph.of(pool[next].row, 0), 8 * Graph::LINKS);
        }
    }
    return size;
}

}  // namespace verdigris
