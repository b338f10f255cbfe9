//! `releases export --layout faiss`: what others can read without Verdigris.
//!
//! Goal: row n of `index.faiss` is line n of `meta.jsonl`, and a stock reader finds what Verdigris finds, in an export and
//! in a bucket. Method: random vectors, some changed and some deleted in later releases; the rows are read from the bytes
//! of a flat index here, and a graph is searched by stock FAISS in Python where that can be had, fetched by boto3 from a
//! real S3 server.
//! Deliberately absent: how files come about; that is the engine's.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]
#![allow(
    clippy::print_stdout,
    reason = "what was skipped or measured is told on standard output"
)]

mod kept;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use verdigris_tests::process::{Folder, Server};
use verdigris_tests::servers;

const DIMENSION: usize = 16;
const TOP_K: usize = 20;
/// The header of a flat index by inner product: its name, dimension, rows, two unused numbers, trained, metric, length.
const FLAT_HEADER_BYTES: usize = 4 + 4 + 8 + 16 + 1 + 4 + 8;
const SEARCH_IN_PYTHON: &str = "\
import faiss, json, numpy, sys
index = faiss.read_index(sys.argv[1] + '/index.faiss')
index.hnsw.efSearch = index.ntotal
ids = [json.loads(line)['id'] for line in open(sys.argv[1] + '/meta.jsonl')]
queries = numpy.array(json.load(open(sys.argv[2])), dtype='float32')
assert index.ntotal == len(ids), (index.ntotal, len(ids))
print(json.dumps([[ids[row] for row in rows] for rows in index.search(queries, int(sys.argv[3]))[1]]))
";

#[test]
fn an_export_has_a_row_for_each_line_and_what_describes_them() {
    let catalog = Catalog::new(600);
    let (to, told) = catalog.export();
    let count = catalog.vectors.len();
    assert_eq!((&told["count"], &told["dimension"]), (&count.into(), &DIMENSION.into()));

    let meta = meta(&to);
    assert_eq!(meta.len(), count);
    let rows = flat_rows(&fs::read(to.join("index.faiss")).unwrap());
    assert_eq!(rows.len(), count);
    for (line, row) in meta.iter().zip(&rows) {
        let id = line["id"].as_str().unwrap();
        let vector = &catalog.vectors[id];
        for (found, expect) in row.iter().zip(vector) {
            assert!((found - expect).abs() < 1e-6, "{id}: {row:?} is not {vector:?}");
        }
        assert_eq!(line["document"]["title"], format!("document {id}"));
    }
    let get = catalog
        .folder
        .run(&["get", meta[7]["id"].as_str().unwrap()])
        .with_code(0);
    assert_eq!(meta[7]["document"], get["document"]);
    let ids = meta.iter().map(|line| line["id"].as_str().unwrap());
    for query in queries() {
        assert_eq!(exact(&query, ids.clone().zip(&rows)), catalog.found(&query));
    }
    check_manifest(&catalog, &to, &told);
}

#[test]
fn stock_faiss_finds_in_an_export_what_verdigris_finds() {
    let test = "stock_faiss_finds_in_an_export_what_verdigris_finds";
    let packages = match packages("faiss", &["faiss-cpu", "numpy"]) {
        Ok(packages) => packages,
        Err(why) => return println!("skipped: {test}: no stock FAISS: {why}"),
    };
    let catalog = Catalog::new(3_000);
    let (to, _told) = catalog.export();
    // A graph, where the flat index of the other test is a scan.
    assert_eq!(&fs::read(to.join("index.faiss")).unwrap()[..4], b"IHNf");
    let file = catalog.folder.file("queries.json", json!(queries()).to_string());
    let (folder, top_k) = (to.to_string_lossy(), TOP_K.to_string());
    let printed = python(&["-c", SEARCH_IN_PYTHON, &folder, &file, &top_k], Some(&packages)).unwrap();
    let found: Vec<Vec<String>> = serde_json::from_str(&printed).unwrap();
    for (query, found) in queries().iter().zip(found) {
        assert_eq!(found, catalog.found(query));
    }
}

#[test]
fn outside_clients_read_from_a_bucket_what_verdigris_finds() {
    let test = "outside_clients_read_from_a_bucket_what_verdigris_finds";
    let Some(s3) = servers::Server::s3(test) else { return };
    let packages = match packages("boto3", &["boto3", "blake3", "faiss-cpu", "numpy", "pyroaring"]) {
        Ok(packages) => packages,
        Err(why) => return println!("skipped: {test}: no boto3, FAISS or what reads digests and bitmaps: {why}"),
    };
    let environment = s3.environment();
    let catalog = Catalog::over(1_000, &environment);
    let of = |name: &str| environment.iter().find(|(key, _)| *key == name).unwrap().1.clone();
    let url = of("VERDIGRIS_STORE_URL");
    let (bucket, prefix) = url.trim_start_matches("s3://").split_once('/').unwrap();
    let file = catalog.folder.file("queries.json", json!(queries()).to_string());
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/read_release.py");
    let mut python = Command::new("python3");
    python.arg(program).args([bucket, &format!("{prefix}/products"), &file]);
    python.arg(TOP_K.to_string()).env("PYTHONPATH", &packages);
    python.envs(["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"].map(|name| (name, of(name))));
    python.env("AWS_ENDPOINT_URL_S3", of("VERDIGRIS_STORE_ENDPOINT"));
    python.env("AWS_DEFAULT_REGION", of("VERDIGRIS_STORE_REGION"));
    let output = python.output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaint}");
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["documents"], catalog.vectors.len());
    let rows = told["rows"].as_u64().unwrap();
    assert!(rows > catalog.vectors.len() as u64, "some rows are dead: {rows}");
    for (query, found) in queries().iter().zip(told["found"].as_array().unwrap()) {
        assert_eq!(found, &json!(catalog.found(query)));
    }
}

/// A collection of random vectors, of which later releases changed some and deleted some.
struct Catalog {
    folder: Folder,
    _server: Server,
    /// The vectors of the documents that there are, by id, normalised.
    vectors: BTreeMap<String, Vec<f32>>,
}

// === impl Catalog ===

impl Catalog {
    fn new(documents: usize) -> Self {
        Self::over(documents, &[])
    }

    /// In the store that this environment names.
    fn over(documents: usize, environment: &[(&str, String)]) -> Self {
        let folder = Folder::new();
        let mut up = folder.command();
        up.args(["up", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0"]);
        up.envs(environment.iter().map(|(name, value)| (name, value)));
        let server = folder.try_up_by(&mut up).unwrap();
        let settings = json!({"embedder": {"provider": "none", "dimension": DIMENSION}}).to_string();
        let settings = folder.file("settings.json", &settings);
        let _made = folder
            .run(&["collections", "create", "products", "--settings", &settings])
            .with_code(0);
        let mut catalog = Self {
            folder,
            _server: server,
            vectors: BTreeMap::new(),
        };
        catalog.send(0..documents, 1);
        catalog.send((0..documents).step_by(7), 2);
        let deleted: Vec<String> = (3..documents).step_by(11).map(id).collect();
        let lines: String = deleted
            .iter()
            .map(|id| format!("{}\n", json!({"id": id, "_op": "delete"})))
            .collect();
        catalog.ingest(&lines);
        catalog.vectors.retain(|id, _| !deleted.contains(id));
        catalog.send(documents..documents + 50, 3);
        catalog
    }

    /// Upserts documents with vectors of this seed.
    fn send(&mut self, places: impl Iterator<Item = usize>, seed: u64) {
        let mut lines = String::new();
        for place in places {
            let (id, vector) = (id(place), random_vector(seed << 32 | place as u64));
            // Longer than one, because the index must hold directions whatever was sent.
            let sent: Vec<f32> = vector.iter().map(|x| x * 2.0).collect();
            let event = json!({"id": id, "title": format!("document {id}"), "_vector": sent});
            lines.push_str(&format!("{event}\n"));
            self.vectors.insert(id, vector);
        }
        self.ingest(&lines);
    }

    fn ingest(&self, lines: &str) {
        let file = self.folder.file("lines.jsonl", lines);
        let told = self.folder.run(&["ingest", &file, "--wait"]).with_code(0);
        assert_eq!(told["applied"], lines.lines().count(), "{told}");
    }

    fn export(&self) -> (PathBuf, Value) {
        let to = self.folder.data().with_file_name("exported");
        let shown = to.to_string_lossy().into_owned();
        let arguments = ["releases", "export", "--layout", "faiss", "--to", &shown];
        let told = self.folder.run(&arguments).with_code(0);
        (to, told)
    }

    /// The ids that Verdigris finds, best first. Every vector is a candidate, so that no graph stands between.
    fn found(&self, query: &[f32]) -> Vec<String> {
        let file = self.folder.file("query.json", json!(query).to_string());
        let top_k = TOP_K.to_string();
        let arguments = ["search", "--mode", "vector", "--vector-file", &file, "--top-k", &top_k];
        let told = self
            .folder
            .run(&[&arguments[..], &["--ef-search", "10000"]].concat())
            .with_code(0);
        let hits = told["hits"].as_array().unwrap().iter();
        hits.map(|hit| hit["id"].as_str().unwrap().to_owned()).collect()
    }
}

fn check_manifest(catalog: &Catalog, to: &Path, told: &Value) {
    let found: Value = serde_json::from_slice(&fs::read(to.join("manifest.json")).unwrap()).unwrap();
    let release = catalog.folder.run(&["releases", "show"]).with_code(0);
    let manifest = &release["manifest"];
    assert_eq!(found["count"], catalog.vectors.len());
    for field in [
        "dimension",
        "created_at",
        "generation",
        "lineage",
        "metric",
        "embedder",
        "count",
    ] {
        assert!(!found[field].is_null(), "{field} is missing in {found}");
        assert_eq!(found[field], manifest[field], "{field}");
    }
    assert_eq!(found["metric"], "cosine");
    let pointer = catalog
        .folder
        .files("store")
        .into_iter()
        .find(|path| path.ends_with("latest"));
    let pointer: Value = serde_json::from_slice(&fs::read(pointer.unwrap()).unwrap()).unwrap();
    assert_eq!(found["etag"], pointer["active"]["manifest"]["digest"]);
    let files: Vec<&str> = told["files"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let names: Vec<_> = files.iter().map(|file| Path::new(file).file_name().unwrap()).collect();
    assert_eq!(names, ["index.faiss", "meta.jsonl", "manifest.json"]);
}

fn id(place: usize) -> String {
    format!("D-{place}")
}

fn meta(to: &Path) -> Vec<Value> {
    let text = fs::read_to_string(to.join("meta.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The rows of a flat index, from its bytes.
fn flat_rows(bytes: &[u8]) -> Vec<Vec<f32>> {
    assert_eq!(&bytes[..4], b"IxFI", "a flat index by inner product");
    let (header, body) = bytes.split_at(FLAT_HEADER_BYTES);
    let dimension = u32::from_le_bytes(header[4..8].try_into().unwrap());
    let rows = u64::from_le_bytes(header[8..16].try_into().unwrap());
    assert_eq!(dimension as usize, DIMENSION);
    assert_eq!(body.len(), rows as usize * DIMENSION * size_of::<f32>());
    let number = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().unwrap());
    let numbers: Vec<f32> = body.chunks(size_of::<f32>()).map(number).collect();
    numbers.chunks(DIMENSION).map(<[f32]>::to_vec).collect()
}

/// The ids of the rows nearest to the query by inner product, best first.
fn exact<'a>(query: &[f32], rows: impl Iterator<Item = (&'a str, &'a Vec<f32>)>) -> Vec<String> {
    let product = |row: &[f32]| query.iter().zip(row).map(|(x, y)| x * y).sum::<f32>();
    let mut scored: Vec<(f32, &str)> = rows.map(|(id, row)| (product(row), id)).collect();
    scored.sort_by(|one, other| other.0.total_cmp(&one.0));
    scored.into_iter().take(TOP_K).map(|(_, id)| id.to_owned()).collect()
}

fn queries() -> Vec<Vec<f32>> {
    (0..8).map(|n| random_vector(99 << 32 | n)).collect()
}

/// A direction that is the same in every run. SplitMix64 gives the coordinates.
fn random_vector(seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x2545_f491_4f6c_dd1d);
    let mut coordinate = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
    };
    let vector: Vec<f32> = (0..DIMENSION).map(|_| coordinate()).collect();
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    vector.iter().map(|x| x / length).collect()
}

/// A folder with these packages for this Python, fetched once and kept; or why there is none.
fn packages(module: &str, what: &[&str]) -> Result<PathBuf, String> {
    let version = python(&["-c", "import sys; print(sys.implementation.cache_tag)"], None)?;
    let kept = kept::path(&format!("{module}-{}", version.trim()));
    if !kept.exists() {
        let unfinished = kept::unfinished(&kept);
        let target = unfinished.to_string_lossy();
        let quietly = [
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-input",
            "--disable-pip-version-check",
        ];
        let briefly = ["--only-binary", ":all:", "--retries", "0", "--timeout", "20"];
        let installed = python(&[&quietly[..], &briefly, &["--target", &target], what].concat(), None);
        // Another run may have been first; then its folder serves.
        if installed.is_err() || fs::rename(&unfinished, &kept).is_err() {
            fs::remove_dir_all(&unfinished).ok();
        }
        installed?;
    }
    python(&["-c", &format!("import {module}")], Some(&kept))?;
    Ok(kept)
}

/// What Python prints, with these packages; or the last line of its complaint.
fn python(arguments: &[&str], packages: Option<&Path>) -> Result<String, String> {
    let mut command = Command::new("python3");
    command.envs(packages.map(|packages| ("PYTHONPATH", packages)));
    let output = command.args(arguments).output();
    let output = output.map_err(|error| format!("python3 does not start: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(text.lines().last().unwrap_or_default().to_owned())
}
