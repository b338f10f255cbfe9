// Opening: bytes to a structure that can be searched, with every reference in it checked.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <faiss/Index.h>
#include <faiss/IndexIVF.h>
#include <faiss/IndexIVFPQFastScan.h>
#include <faiss/IndexScalarQuantizer.h>

#include "graph.h"
#include "shim.h"

// An opened structure. Nothing in it changes after opening, so any number of threads may search it at once.
struct vg_ann {
    vg_shape shape;
    // What FAISS has read: of a graph what its rows are, of quantised codes the exact vectors apart.
    std::unique_ptr<faiss::Index> index;
    std::unique_ptr<faiss::Index> exact;
    // Exact vectors: one after the other, or (inverted file) wherever their list has them.
    const uint8_t* vectors = nullptr;
    std::vector<const uint8_t*> places;
    verdigris::Graph graph{};
    const faiss::IndexScalarQuantizer* graph_codes = nullptr;
    const faiss::IndexIVF* ivf = nullptr;
    const faiss::IndexIVFPQFastScan* ivf_pq = nullptr;
    const uint8_t* centroids = nullptr;

    const uint8_t* vector(uint32_t row) const {
        return vectors ? vectors + size_t(row) * shape.dimension * 4 : places[row];
    }
};

namespace verdigris {

std::unique_ptr<vg_ann> open(const uint8_t* bytes, size_t length);

}  // namespace verdigris
