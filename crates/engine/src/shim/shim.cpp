// The functions of shim.h: searching what open.cpp opened, and building.
#include "shim.h"

#include <dlfcn.h>
#include <omp.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <limits>
#include <stdexcept>
#include <system_error>

#include <faiss/IndexHNSW.h>
#include <faiss/IndexRefine.h>
#include <faiss/impl/DistanceComputer.h>
#include <faiss/impl/IDSelector.h>
#include <faiss/impl/io.h>
#include <faiss/impl/simd_result_handlers.h>
#include <faiss/index_factory.h>
#include <faiss/index_io.h>
#include <faiss/utils/utils.h>

#include "open.h"

namespace verdigris {
namespace {

thread_local std::string last_error;

// Nothing may be thrown into Rust. Also out of memory must not be: the words are then left out.
template <class Body>
int guarded(Body body) noexcept {
    try {
        last_error.clear();
        body();
        return 0;
    } catch (const std::exception& error) {
        try {
            last_error = error.what();
        } catch (...) {
        }
    } catch (...) {
    }
    return -1;
}

// === scores ===

struct ExactScore {
    const uint8_t* vectors;
    const float* query;
    size_t d;

    float operator()(uint32_t row) const { return inner_product(query, vectors + size_t(row) * d * 4, d); }
    void prefetch(uint32_t row) const { verdigris::prefetch(vectors + size_t(row) * d * 4, d * 4); }
};

struct CodeScore {
    std::unique_ptr<faiss::FlatCodesDistanceComputer> computer;
    const uint8_t* codes;
    size_t code_size;

    CodeScore(const faiss::IndexScalarQuantizer& storage, const float* query)
            : computer(storage.get_FlatCodesDistanceComputer()),
              codes(storage.codes.data()),
              code_size(storage.code_size) {
        computer->set_query(query);
    }
    float operator()(uint32_t row) const { return computer->distance_to_code(codes + size_t(row) * code_size); }
    void prefetch(uint32_t row) const { verdigris::prefetch(codes + size_t(row) * code_size, code_size); }
};

// === scans ===

template <class Visit>
void score_rows(const vg_ann& ann, const float* query, const uint32_t* rows, size_t count, Visit visit) {
    const size_t d = ann.shape.dimension;
    for (size_t i = 0; i < count; i++) {
        if (i + PREFETCH_ROWS < count) {
            prefetch(ann.vector(rows[i + PREFETCH_ROWS]), d * 4);
        }
        visit(i, inner_product(query, ann.vector(rows[i]), d));
    }
}

void scan(const vg_ann& ann, const float* query, const uint64_t* allowed, TopK& top) {
    constexpr uint32_t BLOCK = 512;
    uint32_t rows[BLOCK];
    for (uint32_t start = 0; start < ann.shape.rows; start += BLOCK) {
        const uint32_t end = std::min(start + BLOCK, ann.shape.rows);
        uint32_t count = 0;
        if (!allowed) {
            for (uint32_t row = start; row < end; row++) {
                rows[count++] = row;
            }
        } else {
            for (uint32_t word = start / 64; word * 64 < end; word++) {
                for (uint64_t bits = allowed[word]; bits; bits &= bits - 1) {
                    const uint32_t row = word * 64 + __builtin_ctzll(bits);
                    if (row < end) {
                        rows[count++] = row;
                    }
                }
            }
        }
        score_rows(ann, query, rows, count, [&](size_t i, float score) { top.offer(rows[i], score); });
    }
}

// === graph ===

template <class Score>
size_t walk_any(const vg_ann& ann, Score& score, const vg_request& request, Scratch& s) {
    const WalkRequest walk_request{
            ann.shape.rows, request.ef, request.wanted, request.pool_max, request.scores_max, {request.allowed}};
    return request.allowed ? walk<true>(ann.graph, score, walk_request, s)
                           : walk<false>(ann.graph, score, walk_request, s);
}

void search_graph(const vg_ann& ann, const float* query, const vg_request& request, Scratch& s, TopK& top) {
    const Allowed allowed{request.allowed};
    if (!ann.graph_codes) {
        ExactScore score{ann.vectors, query, ann.shape.dimension};
        const size_t size = walk_any(ann, score, request, s);
        // The pool is sorted, so the first k allowed ones are the best.
        for (size_t i = 0; i < size && top.heap.size() < top.k; i++) {
            if (allowed.has(s.pool[i].row)) {
                top.heap.push_back({s.pool[i].row, s.pool[i].score});
            }
        }
        std::sort(top.heap.begin(), top.heap.end(), better);
        return;
    }
    CodeScore score(*ann.graph_codes, query);
    const size_t size = walk_any(ann, score, request, s);
    // Codes only choose: every allowed candidate is scored again by its exact vector.
    std::vector<uint32_t> rows;
    for (size_t i = 0; i < size; i++) {
        if (allowed.has(s.pool[i].row)) {
            rows.push_back(s.pool[i].row);
        }
    }
    score_rows(ann, query, rows.data(), rows.size(), [&](size_t i, float exact) { top.offer(rows[i], exact); });
    top.sort();
}

// === inverted file ===

// The nearest lists: as many as asked for, and with a filter up to twice as many until they hold the wanted number of
// allowed rows. None where that is not enough: the allowed rows lie far from the query, and no order of lists helps.
std::vector<Hit> choose_lists(const vg_ann& ann, const float* query, const vg_request& request, Scratch& s) {
    const size_t d = ann.shape.dimension;
    std::vector<Hit>& heap = s.more;
    heap.clear();
    for (uint32_t list = 0; list < ann.shape.lists; list++) {
        heap.push_back({list, inner_product(query, ann.centroids + size_t(list) * d * 4, d)});
    }
    const auto worse = [](const Hit& a, const Hit& b) { return better(b, a); };
    std::make_heap(heap.begin(), heap.end(), worse);
    const Allowed allowed{request.allowed};
    std::vector<Hit> chosen;
    for (size_t seen = 0; !heap.empty() && (chosen.size() < request.nprobe || seen < request.wanted);) {
        if (chosen.size() >= 2 * request.nprobe) {
            return {};
        }
        std::pop_heap(heap.begin(), heap.end(), worse);
        const uint32_t list = heap.back().row;
        chosen.push_back(heap.back());
        heap.pop_back();
        if (request.allowed) {
            const auto* ids = reinterpret_cast<const uint8_t*>(ann.ivf->invlists->get_ids(list));
            for (size_t i = 0; i < ann.ivf->invlists->list_size(list); i++) {
                seen += allowed.has(load<uint64_t>(ids + 8 * i));
            }
        }
    }
    return chosen;
}

void search_lists(const vg_ann& ann, const float* query, const vg_request& request, Scratch& s, TopK& top) {
    const size_t d = ann.shape.dimension;
    const Allowed allowed{request.allowed};
    const faiss::InvertedLists& lists = *ann.ivf->invlists;
    const std::vector<Hit> nearest = choose_lists(ann, query, request, s);

    if (ann.shape.kind == VG_IVF) {
        for (const Hit& list : nearest) {
            const uint8_t* vectors = lists.get_codes(list.row);
            const auto* ids = reinterpret_cast<const uint8_t*>(lists.get_ids(list.row));
            for (size_t i = 0; i < lists.list_size(list.row); i++) {
                const uint32_t row = load<uint64_t>(ids + 8 * i);
                if (allowed.has(row)) {
                    top.offer(row, inner_product(query, vectors + i * d * 4, d));
                }
            }
        }
        top.sort();
        return;
    }

    // Codes only choose `refine` candidates; their exact vectors give the scores.
    std::vector<uint32_t> rows;
    if (ann.shape.kind == VG_IVF_SQ8) {
        std::vector<Hit> buffer;
        TopK chosen(buffer, request.refine);
        const std::unique_ptr<faiss::InvertedListScanner> scanner(ann.ivf->get_InvertedListScanner(false, nullptr, nullptr));
        scanner->set_query(query);
        for (const Hit& list : nearest) {
            scanner->set_list(list.row, list.score);
            const uint8_t* codes = lists.get_codes(list.row);
            const auto* ids = reinterpret_cast<const uint8_t*>(lists.get_ids(list.row));
            for (size_t i = 0; i < lists.list_size(list.row); i++) {
                const uint32_t row = load<uint64_t>(ids + 8 * i);
                if (allowed.has(row)) {
                    chosen.offer(row, scanner->distance_to_code(codes + i * lists.code_size));
                }
            }
        }
        for (const Hit& hit : buffer) {
            rows.push_back(hit.row);
        }
    } else {
        // One level below IndexIVFFastScan::search, which adds to global counters without a lock.
        std::vector<faiss::idx_t> ids(nearest.size());
        std::vector<float> centroid_scores(nearest.size());
        for (size_t i = 0; i < ids.size(); i++) {
            ids[i] = nearest[i].row;
            centroid_scores[i] = nearest[i].score;
        }
        const faiss::IDSelectorBitmap selector(
                (size_t(ann.shape.rows) + 63) / 64 * 8, reinterpret_cast<const uint8_t*>(request.allowed));
        std::vector<float> scores(request.refine);
        std::vector<faiss::idx_t> labels(request.refine, -1);
        using Order = faiss::CMin<uint16_t, int64_t>;
        faiss::simd_result_handlers::ReservoirHandler<Order, true> handler(
                1, 0, request.refine, 2 * request.refine, scores.data(), labels.data(),
                request.allowed ? &selector : nullptr);
        const faiss::IndexIVFFastScan::CoarseQuantized coarse{ids.size(), centroid_scores.data(), ids.data()};
        size_t scored, visited;
        ann.ivf_pq->search_implem_10(1, query, handler, coarse, &scored, &visited, nullptr, nullptr);
        for (const faiss::idx_t label : labels) {
            if (label >= 0) {
                rows.push_back(label);
            }
        }
    }
    score_rows(ann, query, rows.data(), rows.size(), [&](size_t i, float exact) { top.offer(rows[i], exact); });
    top.sort();
}

void hand_over(const std::vector<Hit>& hits, uint32_t* rows, float* scores, size_t* found) {
    for (size_t i = 0; i < hits.size(); i++) {
        rows[i] = hits[i].row;
        scores[i] = hits[i].score;
    }
    *found = hits.size();
}

// === build ===

// Tells of every failure; FAISS' own writer only prints that closing failed, which on a full disk is the moment when
// the last buffer is lost.
struct FileWriter : faiss::IOWriter {
    std::FILE* file;

    explicit FileWriter(const char* path) : file(std::fopen(path, "wb")) {
        name = path;
        fail_if(!file, "open");
    }
    ~FileWriter() override {
        if (file) {
            std::fclose(file);
        }
    }
    FileWriter(const FileWriter&) = delete;
    FileWriter& operator=(const FileWriter&) = delete;

    size_t operator()(const void* from, size_t size, size_t items) override {
        if (items == 0) {
            return 0; // FAISS gives a null pointer then
        }
        const size_t written = std::fwrite(from, size, items, file);
        fail_if(written != items, "write");
        return written;
    }
    void finish() {
        fail_if(std::fflush(file) != 0, "write");
        std::FILE* closing = file;
        file = nullptr;
        fail_if(std::fclose(closing) != 0, "close");
    }
    static void fail_if(bool failed, const char* what) {
        if (failed) {
            throw std::system_error(errno, std::generic_category(), what);
        }
    }
};

void set_ef_construction(faiss::Index* index, int ef) {
    if (auto* refine = dynamic_cast<faiss::IndexRefine*>(index)) {
        set_ef_construction(refine->base_index, ef);
    } else if (auto* hnsw = dynamic_cast<faiss::IndexHNSW*>(index)) {
        hnsw->hnsw.efConstruction = ef;
    }
}

void set_threads(int threads) {
    omp_set_num_threads(threads);
    // Training multiplies matrices. OpenBLAS has threads of its own; another BLAS does not have this function.
    using Set = void (*)(int);
    if (const auto set = reinterpret_cast<Set>(dlsym(RTLD_DEFAULT, "openblas_set_num_threads"))) {
        set(threads);
    }
}

}  // namespace
}  // namespace verdigris

using namespace verdigris;

extern "C" {

int vg_open(const uint8_t* bytes, size_t length, vg_ann** out) {
    return guarded([&] { *out = open(bytes, length).release(); });
}

void vg_close(vg_ann* ann) {
    guarded([&] { delete ann; });
}

void vg_describe(const vg_ann* ann, vg_shape* out) {
    *out = ann->shape;
}

int vg_search(const vg_ann* ann, const float* query, const vg_request* request, uint32_t* rows, float* scores, size_t* found) {
    return guarded([&] {
        Scratch& s = scratch();
        TopK top(s.hits, request->k);
        if (ann->shape.rows == 0 || request->k == 0) {
            // Nothing can be found; an empty graph has no entry.
        } else if (ann->ivf) {
            search_lists(*ann, query, *request, s, top);
        } else if (ann->shape.kind == VG_FLAT) {
            scan(*ann, query, request->allowed, top);
            top.sort();
        } else {
            search_graph(*ann, query, *request, s, top);
        }
        hand_over(top.heap, rows, scores, found);
    });
}

int vg_scan(const vg_ann* ann, const float* query, size_t k, const uint64_t* allowed, uint32_t* rows, float* scores, size_t* found) {
    return guarded([&] {
        TopK top(scratch().hits, k);
        if (k > 0) {
            scan(*ann, query, allowed, top);
        }
        top.sort();
        hand_over(top.heap, rows, scores, found);
    });
}

int vg_scores(const vg_ann* ann, const float* query, const uint32_t* rows, size_t count, float* scores) {
    return guarded([&] {
        score_rows(*ann, query, rows, count, [&](size_t i, float score) { scores[i] = score; });
    });
}

void vg_vector(const vg_ann* ann, uint32_t row, float* out) {
    std::memcpy(out, ann->vector(row), size_t(ann->shape.dimension) * 4);
}

int vg_build(const char* factory, uint32_t dimension, const float* vectors, size_t rows, int ef_construction, int threads, const char* path) {
    return guarded([&] {
        set_threads(threads);
        const std::unique_ptr<faiss::Index> index(
                faiss::index_factory(int(dimension), factory, faiss::METRIC_INNER_PRODUCT));
        set_ef_construction(index.get(), ef_construction);
        if (rows > 0) {
            index->train(faiss::idx_t(rows), vectors);
            index->add(faiss::idx_t(rows), vectors);
        }
        FileWriter file(path);
        faiss::write_index(index.get(), &file);
        file.finish();
    });
}

const char* vg_compile_options() {
    // Kept for the life of the process; the first caller fills it, whichever thread that is.
    static const std::string options = faiss::get_compile_options();
    return options.c_str();
}

const char* vg_last_error() {
    return last_error.c_str();
}
}
