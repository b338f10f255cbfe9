// A graph in the file that FAISS wrote.
#pragma once

#include "graph.h"
#include "reader.h"

namespace verdigris {

// A graph as FAISS writes it, read where it lies: FAISS's own reader copies 12 bytes a row to the heap, and asking the
// system for their pages took longer than all else that opening a large graph does besides its checks.
struct GraphFile {
    Packed<int32_t> first; // link of a row at each level
    Packed<int32_t> levels;
    Packed<uint64_t> offsets;
    Packed<int32_t> links;
    int32_t entry, max_level;
};

// Reads what follows the letters and the header of a graph.
GraphFile read_graph(Reader& reader);

// Every link of every level must lead to a row of that level.
Graph checked_graph(const GraphFile& file, uint32_t rows);

}  // namespace verdigris
