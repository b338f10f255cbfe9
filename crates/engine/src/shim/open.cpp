// FAISS reads, but for graphs, which are walked where they lie in the file; this file decides what may come out. The
// caller has compared the bytes with their digest, so a file that FAISS itself would crash on never comes here in
// production; what is checked here makes searching safe whatever the bytes were, as far as FAISS gets through them.
#include "open.h"

#include <future>
#include <optional>
#include <thread>
#include <typeinfo>

#include <faiss/IndexFlat.h>
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

    // The letters that come next.
    uint32_t letters() const { return remaining() < 4 ? 0 : load<uint32_t>(data_ + rp_); }

    // One number; a count is compared with the file as FAISS's own are.
    template <class T>
    T one() {
        T value;
        check((*this)(&value, sizeof(T), 1) == 1, "the file ends early");
        return value;
    }

    // An array with its count before it, where it lies.
    template <class T>
    Packed<T> packed() {
        const size_t count = one<uint64_t>();
        check(count <= remaining() / sizeof(T), "the file ends early");
        const Packed<T> array{data_ + rp_, count};
        rp_ += count * sizeof(T);
        return array;
    }

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

// The letters that a structure begins with, as FAISS makes a number of them.
constexpr uint32_t letters(const char (&four)[5]) {
    return uint8_t(four[0]) | uint8_t(four[1]) << 8 | uint8_t(four[2]) << 16 | uint32_t(uint8_t(four[3])) << 24;
}

constexpr uint32_t GRAPH = letters("IHNf"), GRAPH_OF_CODES = letters("IHNs"), REFINED = letters("IxRF");

// What every structure of FAISS begins with after its letters.
struct Header {
    int64_t d, rows;
    int32_t metric;
    uint8_t trained;
};

Header header_of(const faiss::Index& index) {
    return {index.d, index.ntotal, raw<int32_t>(index.metric_type), raw<uint8_t>(index.is_trained)};
}

Header read_header(Reader& reader) {
    Header header;
    header.d = reader.one<int32_t>();
    header.rows = reader.one<int64_t>();
    reader.one<int64_t>();
    reader.one<int64_t>();
    header.trained = reader.one<uint8_t>();
    header.metric = reader.one<int32_t>();
    return header;
}

void check_header(const Header& header, const vg_shape& shape) {
    check(header.d == int64_t(shape.dimension), "parts differ in dimension");
    check(header.rows == int64_t(shape.rows), "parts differ in rows");
    check(header.metric == faiss::METRIC_INNER_PRODUCT, "the metric is not inner product");
    check(header.trained == 1, "the structure is not trained");
}

const uint8_t* flat_vectors(const faiss::Index* index, const vg_shape& shape) {
    const auto* flat = dynamic_cast<const faiss::IndexFlat*>(index);
    check(flat != nullptr, "the exact vectors are not Flat");
    check_header(header_of(*flat), shape);
    check(flat->codes.size() == size_t(shape.rows) * shape.dimension * 4, "vectors are missing");
    return flat->codes.data();
}

void check_quantizer(const faiss::ScalarQuantizer& sq, size_t d) {
    check(raw<uint32_t>(sq.qtype) == faiss::ScalarQuantizer::QT_8bit, "codes are not SQ8");
    check(sq.d == d && sq.code_size == d && sq.trained.size() == 2 * d, "the quantiser has another dimension");
}

// A graph as FAISS writes it, read where it lies: FAISS's own reader copies 12 bytes a row to the heap, and asking the
// system for their pages took longer than all else that opening a large graph does besides its checks.
struct GraphFile {
    Packed<int32_t> first; // link of a row at each level
    Packed<int32_t> levels;
    Packed<uint64_t> offsets;
    Packed<int32_t> links;
    int32_t entry, max_level;
};

GraphFile read_graph(Reader& reader) {
    GraphFile file;
    reader.packed<double>(); // chances of the levels: for building
    file.first = reader.packed<int32_t>();
    file.levels = reader.packed<int32_t>();
    file.offsets = reader.packed<uint64_t>();
    file.links = reader.packed<int32_t>();
    file.entry = reader.one<int32_t>();
    file.max_level = reader.one<int32_t>();
    // Efforts of building and searching, and a field that FAISS no longer uses.
    for (int unused = 0; unused < 3; unused++) {
        reader.one<int32_t>();
    }
    return file;
}

// What is wrong with the links of rows `from` to `to`, or nothing. Their offsets and all levels have been checked.
const char* fault_of_links(const Graph& graph, const Packed<int32_t>& levels, uint32_t from, uint32_t to) {
    // So many rows that their links are still near when their levels are looked at.
    constexpr uint32_t BLOCK = 512;
    const uint32_t rows = levels.count;
    for (uint32_t begin = from; begin < to; begin += BLOCK) {
        const uint32_t end = std::min(to, begin + BLOCK);
        // Unsigned, -1 is the largest number: one comparison a link, and the compiler makes vectors of it.
        uint32_t beyond = 0;
        const size_t last = graph.offsets[end];
        for (size_t link = graph.offsets[begin]; link < last; link++) {
            beyond |= load<uint32_t>(graph.links + 4 * link) + 1 > rows;
        }
        if (beyond) {
            return "a link leads to no row";
        }
        uint32_t lower = 0;
        for (uint32_t row = begin; row < end; row++) {
            for (int level = 1; level < levels[row]; level++) {
                const uint8_t* links = graph.of(row, level);
                for (size_t i = 0; i < Graph::count(level); i++) {
                    // Which links are there no processor could guess: where there is none, the row's own level counts.
                    const int32_t next = load<int32_t>(links + 4 * i);
                    lower |= levels[next < 0 ? row : next] <= level;
                }
            }
        }
        if (lower) {
            return "a link leads to a lower level";
        }
    }
    return nullptr;
}

// All links, those of a large graph by several threads: whoever starts waits for this.
void check_links(const Graph& graph, const Packed<int32_t>& levels) {
    constexpr uint32_t PART_MIN = 1 << 14, PARTS_MAX = 8;
    const uint64_t rows = levels.count;
    const uint32_t processors = std::max(1u, std::thread::hardware_concurrency());
    const uint32_t parts = std::clamp<uint32_t>(rows / PART_MIN, 1, std::min(processors, PARTS_MAX));
    const auto part = [&](uint64_t n) { return fault_of_links(graph, levels, rows * n / parts, rows * (n + 1) / parts); };
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
Graph checked_graph(const GraphFile& file, uint32_t rows) {
    check(file.levels.count == rows && file.offsets.count == size_t(rows) + 1, "the graph has other rows");
    check(file.max_level >= -1 && int64_t(file.max_level) + 2 <= int64_t(file.first.count), "the graph has too many levels");
    for (int level = 0; level <= file.max_level + 1; level++) {
        check(file.first[level] == int(level == 0 ? 0 : Graph::first(level)), "the graph does not have 32 links");
    }
    check(file.offsets[0] == 0, "the graph begins late");
    for (uint32_t row = 0; row < rows; row++) {
        const int levels = file.levels[row];
        check(levels >= 1 && levels <= file.max_level + 1, "a row is on no level of the graph");
        check(file.offsets[row + 1] - file.offsets[row] == Graph::first(levels), "a row has too many links");
    }
    check(file.links.count == file.offsets[rows], "links are missing");

    const Graph graph{file.links.bytes, file.offsets, uint32_t(file.entry), file.max_level + 1};
    if (rows == 0) {
        return graph;
    }
    check(file.entry >= 0 && uint32_t(file.entry) < rows, "the entry is no row");
    check(file.levels[file.entry] == graph.levels, "the entry is not on the top level");
    check_links(graph, file.levels);
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

void open_ivf(vg_ann& ann, const faiss::IndexIVF* ivf) {
    check_header(header_of(*ivf), ann.shape);
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

// A structure that FAISS has read; a graph is read here, and FAISS reads what its rows are.
struct Part {
    Header header;
    std::unique_ptr<faiss::Index> index;
    std::optional<GraphFile> graph;
};

std::unique_ptr<faiss::Index> read_index(Reader& reader) {
    std::unique_ptr<faiss::Index> index(faiss::read_index(&reader, FLAG_MAPPED_LISTS));
    check(index != nullptr, "the file holds no index");
    return index;
}

Part read_part(Reader& reader) {
    if (reader.letters() != GRAPH && reader.letters() != GRAPH_OF_CODES) {
        auto index = read_index(reader);
        return {header_of(*index), std::move(index), {}};
    }
    reader.one<uint32_t>();
    Part part;
    part.header = read_header(reader);
    part.graph = read_graph(reader);
    part.index = read_index(reader);
    return part;
}

void open_flat_or_graph(vg_ann& ann, const Part& part) {
    check_header(part.header, ann.shape);
    if (!part.graph) {
        ann.shape.kind = VG_FLAT;
        ann.vectors = flat_vectors(part.index.get(), ann.shape);
        return;
    }
    ann.graph_codes = dynamic_cast<const faiss::IndexScalarQuantizer*>(part.index.get());
    if (ann.graph_codes) {
        ann.shape.kind = VG_HNSW_SQ8;
        check_header(header_of(*ann.graph_codes), ann.shape);
        check_quantizer(ann.graph_codes->sq, ann.shape.dimension);
        const size_t bytes = size_t(ann.shape.rows) * ann.shape.dimension;
        check(ann.graph_codes->codes.size() == bytes, "codes are missing");
    } else {
        ann.shape.kind = VG_HNSW;
        ann.vectors = flat_vectors(part.index.get(), ann.shape);
    }
    ann.graph = checked_graph(*part.graph, ann.shape.rows);
}

}  // namespace

std::unique_ptr<vg_ann> open(const uint8_t* bytes, size_t length) {
    register_hook_once();
    Reader reader(bytes, length);
    auto ann = std::make_unique<vg_ann>();
    const bool refined = reader.letters() == REFINED;
    std::optional<Header> whole;
    if (refined) {
        reader.one<uint32_t>();
        whole = read_header(reader);
    }
    Part part = read_part(reader);
    if (refined) {
        ann->exact = read_index(reader);
        reader.one<float>(); // how many candidates FAISS itself would look at
    }
    check(reader.rp_ == reader.total_, "bytes follow the index");
    const Header header = whole.value_or(part.header);
    check(header.d > 0 && header.rows >= 0 && header.rows < INT32_MAX, "no sensible size");
    ann->shape = {VG_FLAT, uint32_t(header.d), uint32_t(header.rows), 0, 0};
    check_header(header, ann->shape);

    const uint8_t* exact = refined ? flat_vectors(ann->exact.get(), ann->shape) : nullptr;
    if (const auto* ivf = dynamic_cast<const faiss::IndexIVF*>(part.index.get())) {
        check(!part.graph, "a graph of lists");
        open_ivf(*ann, ivf);
    } else {
        open_flat_or_graph(*ann, part);
    }
    const bool quantised = ann->shape.kind == VG_HNSW_SQ8 || ann->shape.kind == VG_IVF_SQ8 || ann->shape.kind == VG_IVF_PQ;
    check(quantised == refined, "quantised codes need exact vectors beside them, and only they");
    ann->vectors = refined ? exact : ann->vectors;
    ann->index = std::move(part.index);
    return ann;
}

}  // namespace verdigris
