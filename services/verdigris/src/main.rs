//! The executable: arguments in, an exit code out. Roles and commands lie in the other files.
#![forbid(unsafe_code)]
// Commands and roles are futures in futures, down to a request to the store.
#![recursion_limit = "256"]

mod access;
mod arguments;
mod client;
mod commands;
mod controller;
mod doctor;
mod exit;
mod export;
mod figures;
mod folder;
mod keys;
mod kubectl;
mod local;
mod measured;
mod memory;
mod opener;
mod output;
mod parts;
#[cfg(test)]
mod reference;
mod relevance;
mod remote;
mod searchers;
mod server;
mod starting;
mod up;

use std::process::ExitCode;

use clap::Parser;

use crate::arguments::Arguments;
use crate::output::{Format, Output};

fn main() -> ExitCode {
    verdigris_engine::memory::limit_arenas();
    if kubectl::is_called() {
        return kubectl::main();
    }
    let arguments = Arguments::parse();
    let output = Output::standard(if arguments.global.json {
        Format::Json
    } else {
        Format::People
    });
    // FAISS, candidates and Tantivy run on blocking threads; the runtime itself only moves bytes.
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output.error("INTERNAL", &format!("no runtime: {error}"), None);
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(local::dispatch(&arguments, &output)).into()
}

pub(crate) use local::model_folder;
