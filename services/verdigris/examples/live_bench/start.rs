//! Start on a large index, next to nothing but hashing its files; and the memory that it takes.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::json;
use verdigris_store::digest_of_file;

use crate::process::{Memory, Up};
use crate::search::filled;
use crate::{at, sorted};

const ROUNDS: usize = 15;
/// Bytes of a vector itself.
const RAW_BYTES: f64 = 4.0 * 384.0;

pub(crate) async fn run(up: &Path, folder: &Path, set: &str) -> anyhow::Result<()> {
    let (mut server, client) = filled(up, folder, set).await?;
    let manifest = client.manifest(0).await?;
    server.stop()?;
    let data = folder.join(format!("{set}-data"));
    let store = data.join("store").join(set);
    let names = manifest
        .segments
        .iter()
        .flat_map(|segment| [&segment.files.vectors.path, &segment.files.rows.path]);
    let files: Vec<PathBuf> = names.map(|name| store.join(name)).collect();
    println!(
        "{set}: {} rows in {} segments, {:.0} MiB",
        manifest.count,
        manifest.segments.len(),
        manifest.bytes() as f64 / f64::from(1 << 20)
    );
    println!(
        "{:26} {:>9} {:>9} {:>9} {:>8} {:>11}",
        "seconds, median", "digest", "process", "ready", "share", "of process"
    );
    let programs = [up.to_owned(), std::env::current_exe()?];
    let (mut lines, mut memory) = (Vec::new(), Memory::default());
    for (name, cold) in [("files in the page cache", false), ("files not in the cache", true)] {
        let (mut digests, mut processes, mut starts) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            prepare(&files, &programs, cold)?;
            digests.push(digest(&files)?);
            prepare(&files, &programs, cold)?;
            processes.push(digest_process(&files)?);
            prepare(&files, &programs, cold)?;
            let mut server = Up::start(up, &data)?;
            let ready = server.ready_after.as_secs_f64();
            memory = server.memory();
            server.stop()?;
            starts.push(ready);
        }
        let share_of = |alone: &[f64]| {
            let shares = alone.iter().zip(&starts).map(|(alone, ready)| alone / ready);
            at(&sorted(shares.collect()), 0.5)
        };
        let (share, of_process) = (share_of(&digests), share_of(&processes));
        let [digest, process, ready] = [digests, processes, starts].map(|times| at(&sorted(times), 0.5));
        println!("{name:26} {digest:>9.3} {process:>9.3} {ready:>9.3} {share:>8.2} {of_process:>11.2}");
        lines.push(
            json!({"files": name, "digest_s": digest, "process_s": process, "ready_s": ready, "share": share,
                          "share_of_process": of_process}),
        );
    }
    let empty = empty_start(up)?;
    println!("{:26} {:>9} {:>9} {empty:>9.3}", "an empty folder", "", "");
    tell_marks(&lines);
    let of_vector = |kib: u64| kib as f64 * 1024.0 / manifest.count as f64;
    let (own, mapped) = (of_vector(memory.anonymous), of_vector(memory.file));
    println!(
        "memory per vector after the start: {own:.0} B of the process, {mapped:.0} B of mapped files; the vector itself {RAW_BYTES:.0} B"
    );
    println!(
        "whole process: {} MiB of its own, {} MiB of mapped files",
        memory.anonymous >> 10,
        memory.file >> 10
    );
    println!(
        "{}",
        json!({"set": set, "rows": manifest.count, "starts": lines, "empty_s": empty, "own_bytes_per_vector": own, "mapped_bytes_per_vector": mapped})
    );
    Ok(())
}

fn tell_marks(lines: &[serde_json::Value]) {
    for line in lines {
        let files = line["files"].as_str().unwrap_or_default();
        for (key, alone) in [
            ("share", "the digest alone"),
            ("share_of_process", "a process that does nothing but the digest"),
        ] {
            let share = line[key].as_f64().unwrap_or(0.0);
            let met = if share >= 0.8 { "met" } else { "MISSED" };
            println!("mark: at least 0.80 of the speed of {alone}, {files}: {share:.2} {met}");
        }
    }
}

/// Files in the page cache, or not: `dd` with `nocache` and nothing to copy tells the kernel to let them go. The programs
/// are there in any case: a machine that is short of memory lets go of them first, and either may be the unlucky one.
fn prepare(files: &[PathBuf], programs: &[PathBuf], cold: bool) -> anyhow::Result<()> {
    for program in programs {
        std::hint::black_box(std::fs::read(program)?);
    }
    for file in files {
        if cold {
            let from = format!("if={}", file.display());
            let status = Command::new("dd")
                .args([&from, "iflag=nocache", "count=0"])
                .stderr(Stdio::null())
                .status()?;
            anyhow::ensure!(status.success(), "dd cannot drop {} from the cache", file.display());
        } else {
            std::hint::black_box(std::fs::read(file)?);
        }
    }
    Ok(())
}

/// The same digest by the same threads as the server takes, and nothing else.
fn digest(files: &[PathBuf]) -> anyhow::Result<f64> {
    let began = Instant::now();
    for file in files {
        std::hint::black_box(digest_of_file(file)?);
    }
    Ok(began.elapsed().as_secs_f64())
}

/// The same in a process of its own, from its start until it says that it is done: what a start of any process takes
/// is in it.
fn digest_process(files: &[PathBuf]) -> anyhow::Result<f64> {
    let began = Instant::now();
    let mut child = Command::new(std::env::current_exe()?)
        .arg("digest")
        .args(files)
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    if let Some(out) = child.stdout.take() {
        BufReader::new(out).read_line(&mut line)?;
    }
    let took = began.elapsed().as_secs_f64();
    anyhow::ensure!(child.wait()?.success() && line == "hashed\n", "the digests failed");
    Ok(took)
}

/// What that process does.
pub(crate) fn digest_and_say(files: &[&str]) -> anyhow::Result<()> {
    for file in files {
        std::hint::black_box(digest_of_file(Path::new(file))?);
    }
    println!("hashed");
    Ok(())
}

/// What a start takes that has nothing to do with files.
fn empty_start(up: &Path) -> anyhow::Result<f64> {
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let folder = tempfile::tempdir()?;
        let server = Up::start(up, &folder.path().join("data"))?;
        times.push(server.ready_after.as_secs_f64());
    }
    Ok(at(&sorted(times), 0.5))
}
