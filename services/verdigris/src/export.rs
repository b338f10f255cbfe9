//! `releases export`: a release as one stock FAISS file with its documents, for anything that is not Verdigris.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use verdigris_core::document::encoding::document_text;
use verdigris_core::names::CollectionName;
use verdigris_core::pointer::{ManifestReference, Pointer};
use verdigris_engine::ann;
use verdigris_engine::release::open::OpenRelease;
use verdigris_store::directory::DirectoryStore;
use verdigris_store::fetch::VerifiedFiles;
use verdigris_store::{Store, collection as objects};

use crate::opener::Opener;

/// What an export came to.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Exported {
    generation: u64,
    count: u64,
    dimension: u32,
    files: [String; 3],
}

impl Exported {
    pub(crate) fn for_people(&self) -> String {
        let files = self.files.join("\n  ");
        format!(
            "release {}: {} documents of {} dimensions\n  {files}",
            self.generation, self.count, self.dimension
        )
    }
}

/// Writes the release of `generation` (the newest without it) into the folder `to`. Reads the store of a data folder
/// directly, which is safe beside a running server, because releases are immutable.
pub(crate) async fn run(
    data: &Path,
    collection: &CollectionName,
    generation: Option<u64>,
    to: &Path,
) -> anyhow::Result<Exported> {
    let root = data.join("store");
    if !root.is_dir() {
        bail!("{} holds no store: give the data folder with --data", data.display());
    }
    let store: Arc<dyn Store> = Arc::new(DirectoryStore::open(&root)?);
    let pointer = objects::pointer(&*store, collection).await?.pointer;
    let hidden = objects::hidden(&*store, &pointer).await?;
    let reference = reference(pointer, collection, generation)?;
    let manifest = Arc::new(objects::manifest(&*store, collection, &reference).await?);
    let release = Opener::new(store, VerifiedFiles::default())
        .open(manifest.clone(), None)
        .await?;
    let release = release.hiding(hidden.iter().map(String::as_str));
    fs::create_dir_all(to).with_context(|| format!("folder {} cannot be made", to.display()))?;
    let files = ["index.faiss", "meta.jsonl", "manifest.json"];
    let (folder, index_type) = (to.to_owned(), largest_type(&manifest));
    let work = tokio::task::spawn_blocking(move || -> anyhow::Result<u64> {
        let mut meta = BufWriter::new(File::create(folder.join("meta.jsonl"))?);
        let mut vectors = Vec::new();
        let mut count = 0;
        for place in release.live_rows().filter(|place| release.has_vector(*place)) {
            let stored = release.stored(place)?;
            vectors.extend(release.vector(place));
            let id = serde_json::to_string(&stored.id)?;
            writeln!(meta, "{{\"id\":{id},\"document\":{}}}", document_text(&stored.state)?)?;
            count += 1;
        }
        meta.into_inner().map_err(|error| error.into_error())?.sync_all()?;
        let rows = u32::try_from(count).context("one FAISS file holds at most four thousand million rows")?;
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let dimension = release.manifest().dimension;
        ann::build(
            &index_type.for_rows(rows),
            dimension,
            &vectors,
            threads,
            &folder.join("index.faiss"),
        )?;
        Ok(count)
    });
    let count = work.await.context("the export did not end")??;
    let description = serde_json::json!({
        "dimension": manifest.dimension,
        "count": count,
        "created_at": manifest.created_at.to_string(),
        "etag": reference.digest.to_string(),
        "generation": manifest.generation,
        "lineage": manifest.lineage.as_str(),
        "metric": manifest.metric,
        "embedder": manifest.embedder,
    });
    fs::write(to.join("manifest.json"), serde_json::to_vec_pretty(&description)?)?;
    let files = files.map(|file| to.join(file).display().to_string());
    Ok(Exported {
        generation: manifest.generation,
        count,
        dimension: manifest.dimension,
        files,
    })
}

fn largest_type(manifest: &verdigris_core::manifest::Manifest) -> verdigris_core::index_type::IndexType {
    let largest = manifest.segments.iter().max_by_key(|segment| segment.live);
    largest.map(|segment| segment.index_type).unwrap_or_default()
}

fn reference(
    pointer: Pointer,
    collection: &CollectionName,
    generation: Option<u64>,
) -> anyhow::Result<ManifestReference> {
    match (generation, pointer.active) {
        (None, Some(active)) => Ok(active.manifest),
        (None, None) => bail!("collection {collection} has no release yet"),
        (Some(generation), _) => {
            let kept = pointer.kept.into_iter().find(|kept| kept.generation == generation);
            let kept =
                kept.with_context(|| format!("release {generation} is not kept; see `verdigris releases list`"))?;
            Ok(kept.manifest)
        }
    }
}
