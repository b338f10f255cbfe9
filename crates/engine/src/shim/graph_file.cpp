// Reading a graph, and the checks that let the walk go without any.
#include "graph_file.h"

#include <future>
#include <thread>
#include <vector>

namespace verdigris {
namespace {

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

}  // namespace

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

}  // namespace verdigris
