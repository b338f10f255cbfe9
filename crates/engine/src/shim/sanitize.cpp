// A program, not part of the library: builds each kind of structure, damages copies of the file at random, opens and
// searches them, with the bytes in heap memory of exactly their size, so that AddressSanitizer sees every step outside.
// How to compile and run it: docs/engine-memory-checks.md.
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "shim.h"

namespace {

constexpr uint32_t D = 16, ROWS = 1500, K = 10;

std::vector<uint8_t> read(const std::string& path) {
    std::FILE* file = std::fopen(path.c_str(), "rb");
    std::vector<uint8_t> bytes;
    for (int byte; (byte = std::fgetc(file)) != EOF;) {
        bytes.push_back(uint8_t(byte));
    }
    std::fclose(file);
    return bytes;
}

// False if the bytes are refused.
bool open_and_search(const std::vector<uint8_t>& content, const std::vector<float>& vectors) {
    const std::vector<uint8_t> bytes(content.begin(), content.end());
    vg_ann* ann = nullptr;
    if (vg_open(bytes.data(), bytes.size(), &ann) != 0) {
        return false;
    }
    vg_shape shape;
    vg_describe(ann, &shape);
    if (shape.dimension == D) {
        // Exactly the words that the rows need.
        const std::vector<uint64_t> half((shape.rows + 63) / 64, 0x5555555555555555);
        for (const uint64_t* allowed : {static_cast<const uint64_t*>(nullptr), half.data()}) {
            std::vector<uint32_t> rows(K);
            std::vector<float> scores(K), vector(D);
            const size_t pool = allowed ? 256 : 32;
            const vg_request request{K, 32, 16, pool, SIZE_MAX, 4, 64, allowed};
            size_t found = 0;
            vg_search(ann, vectors.data(), &request, rows.data(), scores.data(), &found);
            for (size_t i = 0; i < found; i++) {
                vg_vector(ann, rows[i], vector.data());
            }
            vg_scores(ann, vectors.data(), rows.data(), found, scores.data());
            vg_scan(ann, vectors.data(), K, allowed, rows.data(), scores.data(), &found);
        }
    }
    vg_close(ann);
    return true;
}

}  // namespace

int main(int count, char** arguments) {
    const int rounds = count > 1 ? std::atoi(arguments[1]) : 1000;
    std::mt19937 random(count > 2 ? std::atoi(arguments[2]) : 1);
    std::normal_distribution<float> normal;
    std::vector<float> vectors(size_t(ROWS) * D);
    for (float& x : vectors) {
        x = normal(random);
    }
    for (const char* factory :
         {"Flat", "HNSW32", "HNSW32,SQ8,RFlat", "IVF8,Flat", "IVF8,SQ8,RFlat", "IVF8,PQ4x4fs,RFlat"}) {
        const std::string path = std::string("/tmp/sanitize-") + std::to_string(random()) + ".faiss";
        if (vg_build(factory, D, vectors.data(), ROWS, 40, 1, path.c_str()) != 0) {
            std::printf("%s: %s\n", factory, vg_last_error());
            return 1;
        }
        const std::vector<uint8_t> whole = read(path);
        std::remove(path.c_str());
        if (!open_and_search(whole, vectors)) {
            std::printf("%s: %s\n", factory, vg_last_error());
            return 1;
        }
        int refused = 0;
        for (int round = 0; round < rounds; round++) {
            std::vector<uint8_t> bytes = whole;
            for (uint32_t change = random() % 3; change < 3; change++) {
                // Half of the changes go to the first bytes, where the description lies.
                const size_t span = random() % 2 ? std::min<size_t>(bytes.size(), 400) : bytes.size();
                bytes[random() % span] = random() % 4 ? uint8_t(random()) : 0xff;
            }
            if (random() % 8 == 0) {
                bytes.resize(random() % bytes.size());
            }
            refused += !open_and_search(bytes, vectors);
        }
        std::printf("%s: %d of %d damaged files refused, the others searched\n", factory, refused, rounds);
    }
}
