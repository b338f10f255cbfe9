//! Compiles the C++ shim against the FAISS that `faiss-sys` has built.
//!
//! A FAISS of another source (one with run-time dispatch) is a change of this script alone: the shim's surface names no
//! type of FAISS.

use std::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

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
    for source in ["graph_file.cpp", "open.cpp", "shim.cpp"] {
        build.file(format!("{shim}/{source}"));
    }
    build.compile("verdigris_shim");
    println!("cargo:rerun-if-changed={shim}");
    println!("cargo:rerun-if-env-changed=CXXFLAGS");
    link_blas();
}

/// Links the OpenBLAS that computes on OpenMP's threads, as FAISS itself does, into the executable.
///
/// The usual one makes threads of its own while it is loaded, and each first spins for tens of milliseconds, in every
/// process and whether or not it ever multiplies anything. As an archive it also spares each start two libraries to load.
/// Where there is none, the system's BLAS is linked as `faiss-sys` asks for it, and works.
fn link_blas() {
    let Some(archive) = openblas_on_openmp() else {
        println!(
            "cargo:warning=no OpenBLAS on OpenMP here (libopenblas-openmp-dev): each start waits for the threads of another"
        );
        return;
    };
    // `faiss-sys` names two libraries, and the archive holds both.
    let folder = PathBuf::from(env::var("OUT_DIR").expect("cargo says where a build script writes")).join("blas");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("the build folder can be written");
    for name in ["libblas.a", "liblapack.a"] {
        symlink(&archive, folder.join(name)).expect("the build folder can be written");
    }
    println!("cargo:rustc-link-search=native={}", folder.display());
    println!("cargo:rustc-link-lib=dylib:+verbatim=libgfortran.so.5");
    println!("cargo:rerun-if-changed={}", archive.display());
}

/// Where Debian and Ubuntu keep it.
fn openblas_on_openmp() -> Option<PathBuf> {
    let architecture = env::var("CARGO_CFG_TARGET_ARCH").ok()?;
    let archive = format!("/usr/lib/{architecture}-linux-gnu/openblas-openmp/libopenblas.a");
    Path::new(&archive).exists().then(|| archive.into())
}
