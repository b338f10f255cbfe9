//! Giving memory back: a window or a merge of a hundred thousand rows takes hundreds of mebibytes for some seconds, in
//! millions of small pieces, and the C library keeps what was freed for whoever asks next.
//!
//! It keeps it apart for each of up to eight times as many arenas as there are processors, and such work runs on a
//! thread of a pool, another one each time: a process that needed 300 MiB at any moment grew by as much with each large
//! window, until the system ended it. Absent: an allocator of our own, which FAISS would not use.

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "two functions of the C library without a safe name in Rust")]
mod glibc {
    use std::ffi::c_int;

    const M_ARENA_MAX: c_int = -8;

    unsafe extern "C" {
        fn mallopt(parameter: c_int, value: c_int) -> c_int;
        fn malloc_trim(pad: usize) -> c_int;
    }

    pub(super) fn limit_arenas(arenas: c_int) {
        // SAFETY: takes two numbers and the allocator's own lock; arenas that are there already stay.
        unsafe { mallopt(M_ARENA_MAX, arenas) };
    }

    pub(super) fn trim() {
        // SAFETY: takes a number and, one after the other, the lock of each arena; gives back only pages that hold
        // nothing in use.
        unsafe { malloc_trim(0) };
    }
}

/// Limits how many arenas share the heap. To be called once, before threads are there; later calls limit only arenas
/// that are not there yet.
pub fn limit_arenas() {
    // Searches allocate little, so that a processor each is enough for them.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    glibc::limit_arenas(std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 16)) as std::ffi::c_int);
}

/// Gives free memory back to the system. Takes some milliseconds for each hundred mebibytes: for after large work, on a
/// thread of its own.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    glibc::trim();
}
