// FAISS reads, but for graphs, which are walked where they lie in the file; this file decides what may come out. The
// caller has compared the bytes with their digest, so a file that FAISS itself would crash on never comes here in
// production; what is checked here makes searching safe whatever the bytes were, as far as FAISS gets through them.
#include "open.h"

#include <optional>
#include <typeinfo>

#include <faiss/IndexFlat.h>
#include <faiss/IndexIVFFlat.h>
#include <faiss/IndexRefine.h>
#include <faiss/impl/FaissAssert.h>
#include <faiss/index_io.h>
#include <faiss/invlists/BlockInvertedLists.h>
#include <faiss/invlists/InvertedListsIOHook.h>

#include "graph_file.h"
#include "reader.h"

namespace verdigris {
namespace {

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
    bool of_codes = false; // of a graph: quantised
};

std::unique_ptr<faiss::Index> read_index(Reader& reader) {
    std::unique_ptr<faiss::Index> index(faiss::read_index(&reader, FLAG_MAPPED_LISTS));
    check(index != nullptr, "the file holds no index");
    return index;
}

Part read_part(Reader& reader) {
    Part part;
    part.of_codes = reader.take("IHNs");
    if (!part.of_codes && !reader.take("IHNf")) {
        part.index = read_index(reader);
        part.header = header_of(*part.index);
        return part;
    }
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
    if (part.of_codes) {
        ann.shape.kind = VG_HNSW_SQ8;
        ann.graph_codes = dynamic_cast<const faiss::IndexScalarQuantizer*>(part.index.get());
        check(ann.graph_codes != nullptr, "the graph has no codes");
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
    const bool refined = reader.take("IxRF");
    Header header = refined ? read_header(reader) : Header{};
    Part part = read_part(reader);
    if (refined) {
        ann->exact = read_index(reader);
        reader.one<float>(); // how many candidates FAISS itself would look at
    } else {
        header = part.header;
    }
    check(reader.rp_ == reader.total_, "bytes follow the index");
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
