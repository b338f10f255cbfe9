// FAISS reads; this file decides what may come out of it. The caller has compared the bytes with their digest, so a
// file that FAISS itself would crash on never comes here in production; what is checked here makes searching safe
// whatever the bytes were, as far as FAISS gets through them.
#include "open.h"

#include <future>
#include <thread>
#include <typeinfo>

#include <faiss/IndexFlat.h>
#include <faiss/IndexHNSW.h>
#include <faiss/IndexIVFFlat.h>
#include <faiss/IndexRefine.h>
#include <faiss/impl/FaissAssert.h>
#include <faiss/impl/zerocopy_io.h>
#include <faiss/index_io.h>
#include <faiss/invlists/BlockInvertedLists.h>
#include <faiss/invlists/InvertedListsIOHook.h>

namespace verdigris {
namespace {

void check(bool condition, const char* what) {
    if (!condition) {
        throw std::runtime_error(what);
    }
}

// Zero copy, and two guards that FAISS 1.12 lacks: a count larger than the file could hold is refused before memory
// is reserved for it, and so is a length that overflows.
struct Reader : faiss::ZeroCopyIOReader {
    // FAISS writes 2^20 into two unused fields of each header, and 2^64 - 1 for the code size of blocks; no memory can
    // be reserved for that many of anything.
    static constexpr uint64_t COUNT_ALWAYS_ALLOWED = 1 << 20;

    Reader(const uint8_t* bytes, size_t length) : ZeroCopyIOReader(bytes, length) { name = "mapped file"; }

    // FAISS rounds a view that ends within an element up, so the position may lie behind the end.
    size_t remaining() const { return rp_ < total_ ? total_ - rp_ : 0; }

    size_t operator()(void* to, size_t size, size_t items) override {
        check(items <= remaining() / std::max<size_t>(size, 1), "the file ends early");
        const size_t read = ZeroCopyIOReader::operator()(to, size, items);
        if (size == sizeof(uint64_t) && items == 1) {
            const uint64_t count = load<uint64_t>(static_cast<const uint8_t*>(to));
            const bool plausible = count <= std::max<uint64_t>(remaining(), COUNT_ALWAYS_ALLOWED);
            check(plausible || count == faiss::InvertedLists::INVALID_CODE_SIZE, "a count exceeds the file");
        }
        return read;
    }
};

// Inverted lists that stay in the mapped file. FAISS 1.12 reserves memory for all lists before it makes views of
// them; its hook for other kinds of lists is used to go round that.
struct MappedLists : faiss::ReadOnlyInvertedLists {
    std::vector<size_t> sizes;
    std::vector<const uint8_t*> codes;

    MappedLists(size_t nlist, size_t code_size) : ReadOnlyInvertedLists(nlist, code_size) {}

    size_t list_size(size_t list) const override { return sizes[list]; }
    const uint8_t* get_codes(size_t list) const override { return codes[list]; }
    const faiss::idx_t* get_ids(size_t list) const override {
        return reinterpret_cast<const faiss::idx_t*>(codes[list] + sizes[list] * code_size);
    }
};

// The four letters by which FAISS finds the hook: "il" from the format, "vg" from the flags.
constexpr int FLAG_MAPPED_LISTS = faiss::IO_FLAG_SKIP_IVF_DATA | ('v' << 16) | ('g' << 24);

struct MappedListsHook : faiss::InvertedListsIOHook {
    MappedListsHook() : InvertedListsIOHook("ilvg", typeid(MappedLists).name()) {}

    void write(const faiss::InvertedLists*, faiss::IOWriter*) const override {
        FAISS_THROW_MSG("mapped lists are read only");
    }
    faiss::InvertedLists* read(faiss::IOReader*, int) const override {
        FAISS_THROW_MSG("no file has these letters");
    }
    faiss::InvertedLists* read_ArrayInvertedLists(
            faiss::IOReader* file, int, size_t nlist, size_t code_size, const std::vector<size_t>& sizes) const override {
        auto* reader = dynamic_cast<Reader*>(file);
        check(reader != nullptr, "inverted lists need a mapped file");
        auto lists = std::make_unique<MappedLists>(nlist, code_size);
        lists->sizes = sizes;
        for (const size_t size : sizes) {
            lists->codes.push_back(reader->data_ + reader->rp_);
            const size_t entry = code_size + sizeof(faiss::idx_t);
            check(size <= reader->remaining() / entry, "the file ends within an inverted list");
            reader->rp_ += size * entry;
        }
        return lists.release();
    }
};

void register_hook_once() {
    // A function-local static is initialised once, whichever threads come first.
    static const bool registered = (faiss::InvertedListsIOHook::add_callback(new MappedListsHook), true);
    (void)registered;
}

// FAISS reads enumerations and truth values as bytes, which need not be values of their types.
template <class Number, class Field>
Number raw(const Field& field) {
    static_assert(sizeof(Number) == sizeof(Field));
    return load<Number>(reinterpret_cast<const uint8_t*>(&field));
}

void check_header(const faiss::Index& index, const vg_shape& shape) {
    check(index.d == int(shape.dimension), "parts differ in dimension");
    check(index.ntotal == faiss::idx_t(shape.rows), "parts differ in rows");
    check(raw<int32_t>(index.metric_type) == faiss::METRIC_INNER_PRODUCT, "the metric is not inner product");
    check(raw<uint8_t>(index.is_trained) == 1, "the structure is not trained");
}

const uint8_t* flat_vectors(const faiss::Index* index, const vg_shape& shape) {
    const auto* flat = dynamic_cast<const faiss::IndexFlat*>(index);
    check(flat != nullptr, "the exact vectors are not Flat");
    check_header(*flat, shape);
    check(flat->codes.size() == size_t(shape.rows) * shape.dimension * 4, "vectors are missing");
    return flat->codes.data();
}

void check_quantizer(const faiss::ScalarQuantizer& sq, size_t d) {
    check(raw<uint32_t>(sq.qtype) == faiss::ScalarQuantizer::QT_8bit, "codes are not SQ8");
    check(sq.d == d && sq.code_size == d && sq.trained.size() == 2 * d, "the quantiser has another dimension");
}

// What is wrong with the links of rows `from` to `to`, or nothing. Their offsets and all levels have been checked.
const char* fault_of_links(const faiss::HNSW& hnsw, const Graph& graph, uint32_t from, uint32_t to) {
    const uint32_t rows = hnsw.levels.size();
    // Unsigned, -1 is the largest number: one comparison a link, and the compiler makes vectors of it.
    uint32_t beyond = 0;
    const size_t last = hnsw.offsets[to];
    for (size_t link = hnsw.offsets[from]; link < last; link++) {
        beyond |= load<uint32_t>(graph.links + 4 * link) + 1 > rows;
    }
    if (beyond) {
        return "a link leads to no row";
    }
    for (uint32_t row = from; row < to; row++) {
        for (int level = 1; level < hnsw.levels[row]; level++) {
            for (size_t i = 0; i < Graph::count(level); i++) {
                const int32_t next = load<int32_t>(graph.of(row, level) + 4 * i);
                if (next >= 0 && hnsw.levels[next] <= level) {
                    return "a link leads to a lower level";
                }
            }
        }
    }
    return nullptr;
}

// All links, those of a large graph by several threads: whoever starts waits for this.
void check_links(const faiss::HNSW& hnsw, const Graph& graph) {
    constexpr uint32_t PART_MIN = 1 << 14, PARTS_MAX = 8;
    const uint64_t rows = hnsw.levels.size();
    const uint32_t processors = std::max(1u, std::thread::hardware_concurrency());
    const uint32_t parts = std::clamp<uint32_t>(rows / PART_MIN, 1, std::min(processors, PARTS_MAX));
    const auto part = [&](uint64_t n) { return fault_of_links(hnsw, graph, rows * n / parts, rows * (n + 1) / parts); };
    std::vector<std::future<const char*>> others;
    // Where no thread is to be had, the part is done by this one.
    constexpr auto policy = std::launch::async | std::launch::deferred;
    for (uint32_t n = 1; n < parts; n++) {
        others.push_back(std::async(policy, part, n));
    }
    const char* fault = part(0);
    for (auto& other : others) {
        const char* found = other.get();
        fault = fault ? fault : found;
    }
    check(fault == nullptr, fault);
}

// Every link of every level must lead to a row of that level.
Graph checked_graph(const faiss::HNSW& hnsw, uint32_t rows) {
    check(hnsw.levels.size() == rows && hnsw.offsets.size() == size_t(rows) + 1, "the graph has other rows");
    const auto& first = hnsw.cum_nneighbor_per_level;
    check(hnsw.max_level >= -1 && hnsw.max_level + 2 <= int(first.size()), "the graph has too many levels");
    for (int level = 0; level <= hnsw.max_level + 1; level++) {
        check(first[level] == int(level == 0 ? 0 : Graph::first(level)), "the graph does not have 32 links");
    }
    check(hnsw.offsets[0] == 0, "the graph begins late");
    for (uint32_t row = 0; row < rows; row++) {
        const int levels = hnsw.levels[row];
        check(levels >= 1 && levels <= hnsw.max_level + 1, "a row is on no level of the graph");
        check(hnsw.offsets[row + 1] - hnsw.offsets[row] == Graph::first(levels), "a row has too many links");
    }
    check(hnsw.neighbors.size() == hnsw.offsets[rows], "links are missing");

    const Graph graph{
            reinterpret_cast<const uint8_t*>(hnsw.neighbors.data()),
            hnsw.offsets.data(),
            uint32_t(hnsw.entry_point),
            hnsw.max_level + 1};
    if (rows == 0) {
        return graph;
    }
    check(hnsw.entry_point >= 0 && uint32_t(hnsw.entry_point) < rows, "the entry is no row");
    check(hnsw.levels[hnsw.entry_point] == graph.levels, "the entry is not on the top level");
    check_links(hnsw, graph);
    return graph;
}

// Every row must be in exactly one list. Calls `place(row, list, position)` for each.
template <class Place>
void check_lists(const faiss::InvertedLists& lists, uint32_t rows, Place place) {
    std::vector<bool> seen(rows);
    size_t count = 0;
    for (size_t list = 0; list < lists.nlist; list++) {
        const auto* ids = reinterpret_cast<const uint8_t*>(lists.get_ids(list));
        for (size_t i = 0; i < lists.list_size(list); i++, count++) {
            const uint64_t row = load<uint64_t>(ids + 8 * i);
            check(row < rows && !seen[row], "a row is in two lists or does not exist");
            seen[row] = true;
            place(uint32_t(row), list, i);
        }
    }
    check(count == rows, "a row is in no list");
}

void open_flat_or_graph(vg_ann& ann, const faiss::Index* base) {
    if (const auto* hnsw = dynamic_cast<const faiss::IndexHNSW*>(base)) {
        check_header(*hnsw, ann.shape);
        if (typeid(*hnsw) == typeid(faiss::IndexHNSWSQ)) {
            ann.shape.kind = VG_HNSW_SQ8;
            ann.graph_codes = dynamic_cast<const faiss::IndexScalarQuantizer*>(hnsw->storage);
            check(ann.graph_codes != nullptr, "the graph has no codes");
            check_header(*ann.graph_codes, ann.shape);
            check_quantizer(ann.graph_codes->sq, ann.shape.dimension);
            const size_t bytes = size_t(ann.shape.rows) * ann.shape.dimension;
            check(ann.graph_codes->codes.size() == bytes, "codes are missing");
        } else {
            check(typeid(*hnsw) == typeid(faiss::IndexHNSWFlat), "the graph is of another kind");
            ann.shape.kind = VG_HNSW;
            ann.vectors = flat_vectors(hnsw->storage, ann.shape);
        }
        ann.graph = checked_graph(hnsw->hnsw, ann.shape.rows);
    } else {
        ann.shape.kind = VG_FLAT;
        ann.vectors = flat_vectors(base, ann.shape);
    }
}

void open_ivf(vg_ann& ann, const faiss::IndexIVF* ivf) {
    check_header(*ivf, ann.shape);
    const vg_shape centroids{VG_FLAT, ann.shape.dimension, uint32_t(ivf->nlist), 0, 0};
    ann.centroids = flat_vectors(ivf->quantizer, centroids);
    ann.shape.lists = centroids.rows;
    check(ivf->invlists && ivf->invlists->nlist == ivf->nlist && ivf->nlist > 0, "the inverted lists are missing");
    ann.ivf = ivf;
    const auto* mapped = dynamic_cast<const MappedLists*>(ivf->invlists);
    const size_t d = ann.shape.dimension;
    if (typeid(*ivf) == typeid(faiss::IndexIVFFlat)) {
        ann.shape.kind = VG_IVF;
        check(mapped && mapped->code_size == 4 * d, "lists do not hold vectors");
        ann.places.resize(ann.shape.rows);
        check_lists(*mapped, ann.shape.rows, [&](uint32_t row, size_t list, size_t i) {
            ann.places[row] = mapped->codes[list] + i * 4 * d;
        });
        return;
    }
    check_lists(*ivf->invlists, ann.shape.rows, [](uint32_t, size_t, size_t) {});
    if (typeid(*ivf) == typeid(faiss::IndexIVFScalarQuantizer)) {
        ann.shape.kind = VG_IVF_SQ8;
        check(mapped && mapped->code_size == d, "lists do not hold SQ8 codes");
        check_quantizer(static_cast<const faiss::IndexIVFScalarQuantizer*>(ivf)->sq, d);
        return;
    }
    check(typeid(*ivf) == typeid(faiss::IndexIVFPQFastScan), "the inverted file is of another kind");
    ann.shape.kind = VG_IVF_PQ;
    ann.ivf_pq = static_cast<const faiss::IndexIVFPQFastScan*>(ivf);
    const faiss::ProductQuantizer& pq = ann.ivf_pq->pq;
    check(pq.nbits == 4 && pq.d == d && pq.M > 0 && d % pq.M == 0, "the product quantiser does not fit");
    check(pq.centroids.size() == 16 * d, "the product quantiser lacks centroids");
    check(ann.ivf_pq->bbs == 32 && ann.ivf_pq->M2 == (pq.M + 1) / 2 * 2, "codes are in unknown blocks");
    ann.shape.parts = pq.M;
    const auto* blocks = dynamic_cast<const faiss::BlockInvertedLists*>(ivf->invlists);
    check(blocks && blocks->n_per_block == 32, "lists do not hold blocks");
    for (size_t list = 0; list < blocks->nlist; list++) {
        const size_t bytes = (blocks->ids[list].size() + 31) / 32 * 32 * ann.ivf_pq->M2 / 2;
        check(blocks->codes[list].size() >= bytes, "blocks are missing");
    }
}

}  // namespace

std::unique_ptr<vg_ann> open(const uint8_t* bytes, size_t length) {
    register_hook_once();
    Reader reader(bytes, length);
    auto ann = std::make_unique<vg_ann>();
    ann->index.reset(faiss::read_index(&reader, FLAG_MAPPED_LISTS));
    check(ann->index != nullptr, "the file holds no index");
    check(reader.rp_ == reader.total_, "bytes follow the index");
    const faiss::Index* index = ann->index.get();
    check(index->d > 0 && index->ntotal >= 0 && index->ntotal < INT32_MAX, "no sensible size");
    ann->shape = {VG_FLAT, uint32_t(index->d), uint32_t(index->ntotal), 0, 0};

    const faiss::Index* base = index;
    if (const auto* refine = dynamic_cast<const faiss::IndexRefineFlat*>(index)) {
        check_header(*refine, ann->shape);
        ann->vectors = flat_vectors(refine->refine_index, ann->shape);
        base = refine->base_index;
        check(base != nullptr, "there is nothing to refine");
    }
    if (const auto* ivf = dynamic_cast<const faiss::IndexIVF*>(base)) {
        open_ivf(*ann, ivf);
    } else {
        open_flat_or_graph(*ann, base);
    }
    const bool quantised = ann->shape.kind == VG_HNSW_SQ8 || ann->shape.kind == VG_IVF_SQ8 || ann->shape.kind == VG_IVF_PQ;
    check(quantised == (base != index), "quantised codes need exact vectors beside them, and only they");
    return ann;
}

}  // namespace verdigris
