//! Puts the model into a cache folder: `cargo run -p verdigris-embed --example model_fetch -- MODEL_CACHE_DIR`
//!
//! The library's own way to the model, for working on this crate without building the rest.
#![expect(clippy::print_stdout, reason = "printing is what it is for")]

use std::error::Error;
use std::path::PathBuf;

use verdigris_embed::model;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let cache = std::env::args_os()
        .nth(1)
        .map(PathBuf::from)
        .ok_or("usage: model_fetch MODEL_CACHE_DIR")?;
    let files = model::fetch(&cache, &mut |step| println!("{step:?}")).await?;
    println!("{}", files.dir().display());
    Ok(())
}
