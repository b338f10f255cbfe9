// Reading a file of FAISS in place.
#pragma once

#include <algorithm>
#include <stdexcept>

#include <faiss/impl/zerocopy_io.h>
#include <faiss/invlists/InvertedLists.h>

#include "kernel.h"

namespace verdigris {

inline void check(bool condition, const char* what) {
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

    // Goes past the letters of a structure, if they come next.
    bool take(const char (&letters)[5]) {
        const bool found = remaining() >= 4 && std::memcmp(data_ + rp_, letters, 4) == 0;
        rp_ += found ? 4 : 0;
        return found;
    }

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

}  // namespace verdigris
