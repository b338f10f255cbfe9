//! Compiles the C++ shim against the FAISS that `faiss-sys` has built.
//!
//! A FAISS of another source (one with run-time dispatch) is a change of this script alone: the shim's surface names no
//! type of FAISS.

use std::env;

/// The level of processor that the shim is compiled for; `processor.rs` checks it at start, `.cargo/config.toml` gives
/// the same to FAISS itself.
const X86_64_LEVEL: &str = "-march=x86-64-v3";

fn main() {
    let faiss = env::var("DEP_FAISS_C_ROOT").expect("faiss-sys with the feature `static` says where it was built");
    let shim = "src/shim";
    let mut build = cc::Build::new();
    // Warnings are for our own code, and FAISS's headers are not clean: they come in as system headers.
    build
        .cpp(true)
        .std("c++17")
        .opt_level(3)
        .warnings(true)
        .flag("-isystem")
        .flag(format!("{faiss}/include"));
    if env::var("CARGO_CFG_TARGET_ARCH").as_deref() == Ok("x86_64") {
        build.flag(X86_64_LEVEL);
    }
    build.flag("-fopenmp").define("NDEBUG", None);
    build.file(format!("{shim}/open.cpp")).file(format!("{shim}/shim.cpp"));
    build.compile("verdigris_shim");
    for file in ["shim.cpp", "shim.h", "open.cpp", "open.h", "graph.h", "kernel.h"] {
        println!("cargo:rerun-if-changed={shim}/{file}");
    }
    println!("cargo:rerun-if-env-changed=CXXFLAGS");
}
