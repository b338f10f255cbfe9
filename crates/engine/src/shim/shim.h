// The whole surface between Rust and C++. No FAISS type appears in it, so that another FAISS is a change of build.rs
// and shim.cpp alone. Every function that can fail returns 0 for success and otherwise leaves its words in
// `vg_last_error` of the same thread; no exception leaves any of them.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" {

struct vg_ann;

// Which structure; the numbers are those of `Kind` in ann/ffi.rs.
enum vg_kind : uint32_t {
    VG_FLAT = 0,
    VG_HNSW = 1,
    VG_HNSW_SQ8 = 2,
    VG_IVF = 3,
    VG_IVF_SQ8 = 4,
    VG_IVF_PQ = 5,
};

struct vg_shape {
    uint32_t kind;
    uint32_t dimension;
    uint32_t rows;
    uint32_t lists; // of an inverted file
    uint32_t parts; // of a product quantiser
};

struct vg_request {
    size_t k;
    size_t ef;         // graph: candidates kept at least
    size_t wanted;     // graph: of them allowed ones, at least; inverted file: allowed rows in the lists, at least
    size_t pool_max;   // graph: candidates kept at most
    size_t scores_max; // graph: scores computed at most
    size_t nprobe;     // inverted file: lists visited at least
    size_t refine;     // quantised inverted file: candidates that are scored again by their exact vectors
    const uint64_t* allowed; // one bit a row, or null for all rows
};

// Reads the structure's description from `bytes` and keeps pointing into them for the vectors: they must outlive the
// result and never change. Checks every reference inside, so that no search leaves the buffer.
int vg_open(const uint8_t* bytes, size_t length, vg_ann** out);
void vg_close(vg_ann* ann);
void vg_describe(const vg_ann* ann, vg_shape* out);

// The next three write hits best first, at most k, and their number. `query` has `dimension` floats.
// A walk that exceeds scores_max finds nothing, nor do lists without enough allowed rows.
int vg_search(const vg_ann* ann, const float* query, const vg_request* request, uint32_t* rows, float* scores, size_t* found);
int vg_scan(const vg_ann* ann, const float* query, size_t k, const uint64_t* allowed, uint32_t* rows, float* scores, size_t* found);
// Scores of the given rows, each below the number of rows.
int vg_scores(const vg_ann* ann, const float* query, const uint32_t* rows, size_t count, float* scores);
// The vector of a row below the number of rows: `dimension` floats.
void vg_vector(const vg_ann* ann, uint32_t row, float* out);

// Builds and writes a structure of `rows` vectors. Sets the calling thread's number of OpenMP threads.
int vg_build(const char* factory, uint32_t dimension, const float* vectors, size_t rows, int ef_construction, int threads, const char* path);

// What FAISS was compiled for; static.
const char* vg_compile_options();
// Why the last call on this thread failed; valid until the next call on it.
const char* vg_last_error();
}
