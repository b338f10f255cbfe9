// What every search path shares: the one inner product, order among hits, the scratch memory of a thread.
//
// There is one kernel on purpose: a row gets the same score, bit for bit, from a scan, a graph, an inverted file or a
// re-ranking, so that pages and merged segments never disagree about the order of two hits.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace verdigris {

// FAISS packs its files without padding, so floats and integers in a mapped file lie at odd addresses.
// Everything that reads the mapping therefore goes through memcpy or an unaligned load.
template <class T>
inline T load(const uint8_t* at) {
    T value;
    std::memcpy(&value, at, sizeof(T));
    return value;
}

// An array in a mapped file.
template <class T>
struct Packed {
    const uint8_t* bytes;
    size_t count;

    T operator[](size_t i) const { return load<T>(bytes + sizeof(T) * i); }
};

inline float inner_product(const float* query, const uint8_t* row, size_t d) {
    size_t i = 0;
    float sum = 0;
#ifdef __AVX2__
    const auto at = [row](size_t i) { return _mm256_loadu_ps(reinterpret_cast<const float*>(row + 4 * i)); };
    __m256 s0 = _mm256_setzero_ps(), s1 = s0, s2 = s0, s3 = s0;
    for (; i + 32 <= d; i += 32) {
        s0 = _mm256_fmadd_ps(_mm256_loadu_ps(query + i), at(i), s0);
        s1 = _mm256_fmadd_ps(_mm256_loadu_ps(query + i + 8), at(i + 8), s1);
        s2 = _mm256_fmadd_ps(_mm256_loadu_ps(query + i + 16), at(i + 16), s2);
        s3 = _mm256_fmadd_ps(_mm256_loadu_ps(query + i + 24), at(i + 24), s3);
    }
    for (; i + 8 <= d; i += 8) {
        s0 = _mm256_fmadd_ps(_mm256_loadu_ps(query + i), at(i), s0);
    }
    const __m256 s = _mm256_add_ps(_mm256_add_ps(s0, s1), _mm256_add_ps(s2, s3));
    __m128 t = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    t = _mm_add_ps(t, _mm_movehl_ps(t, t));
    t = _mm_add_ss(t, _mm_movehdup_ps(t));
    sum = _mm_cvtss_f32(t);
#endif
    for (; i < d; i++) {
        sum += query[i] * load<float>(row + 4 * i);
    }
    return sum;
}

// Of each coming row so many bytes are fetched ahead; the processor's own prefetcher goes on from there.
constexpr size_t PREFETCH_BYTES_MAX = 2048;
// Rows fetched ahead of the one being scored. Measured on 384 and 1,536 bytes of L1 traffic a row: 2 is too late, 8
// evicts; 4 took 25 to 35 % off a graph search.
constexpr size_t PREFETCH_ROWS = 4;

inline void prefetch(const uint8_t* row, size_t bytes) {
    for (size_t at = 0; at < std::min(bytes, PREFETCH_BYTES_MAX); at += 64) {
        __builtin_prefetch(row + at);
    }
}

struct Hit {
    uint32_t row;
    float score;
};

// Best first; equal scores by row, so that an exact search has one right answer.
inline bool better(const Hit& a, const Hit& b) {
    return a.score > b.score || (a.score == b.score && a.row < b.row);
}

// The k best hits seen so far, as a heap with the worst on top.
struct TopK {
    std::vector<Hit>& heap;
    size_t k;

    TopK(std::vector<Hit>& buffer, size_t k) : heap(buffer), k(k) { heap.clear(); }

    void offer(uint32_t row, float score) {
        const Hit hit{row, score};
        if (heap.size() < k) {
            heap.push_back(hit);
            std::push_heap(heap.begin(), heap.end(), better);
        } else if (better(hit, heap.front())) {
            std::pop_heap(heap.begin(), heap.end(), better);
            heap.back() = hit;
            std::push_heap(heap.begin(), heap.end(), better);
        }
    }

    void sort() { std::sort_heap(heap.begin(), heap.end(), better); }
};

// One bit a row, or null for all rows. Bits at and after the number of rows are never read.
struct Allowed {
    const uint64_t* words;

    bool has(uint32_t row) const { return !words || (words[row >> 6] >> (row & 63) & 1); }
};

// Marks of visited rows. A mark is the number of the search that set it, so that a search costs no clearing.
struct Visited {
    std::vector<uint8_t> marks;
    uint8_t search = 0;

    void begin(size_t rows) {
        if (marks.size() < rows) {
            marks.assign(rows, 0);
            search = 0;
        }
        if (++search == 0) {
            std::fill(marks.begin(), marks.end(), 0);
            search = 1;
        }
    }
};

// Eight bytes, because a candidate that comes in moves all worse ones up by one. FAISS rows are below 2^31.
struct Candidate {
    float score;
    uint32_t row : 31;
    uint32_t expanded : 1;
};

// Per thread and reused by every search on it, whatever structure is searched; a byte a row of the largest one.
struct Scratch {
    Visited visited;
    std::vector<Candidate> pool;
    std::vector<Hit> hits;
    std::vector<Hit> more;
};

inline Scratch& scratch() {
    thread_local Scratch scratch;
    return scratch;
}

}  // namespace verdigris
