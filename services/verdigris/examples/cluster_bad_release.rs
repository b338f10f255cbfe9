//! Plants a bad candidate in a store: what an indexer with a bug, a broken disk or a wrong model would publish.
//!
//! `cargo run -p verdigris --example cluster_bad_release -- --store s3://… --endpoint URL --kind graph` copies the release
//! that answers into a lineage of its own, spoils the copy, and names it in the pointer as the candidate. It prints that
//! lineage as JSON. Keys come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.
//! Everything that such a bug would keep right is right: digests, the manifest's form, what it claims of its content. So
//! only measuring can tell, which is what the gates are for.
//! Deliberately absent: any turn as the writer. It swings the pointer as no role may; that is what it is for.
#![expect(clippy::print_stdout, reason = "a program whose purpose is to print")]

#[path = "cluster_bad_release/spoil.rs"]
mod spoil;

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use bytes::Bytes;
use clap::Parser;
use serde_json::json;
use verdigris_core::digest::Digest;
use verdigris_core::edit::PublishEdit;
use verdigris_core::manifest::{
    FileEntry, Genesis, LineageId, Manifest, PublishReason, SegmentEntry, SegmentFiles, SegmentId,
};
use verdigris_core::names::CollectionName;
use verdigris_core::pointer::{KeptRelease, LineagePointer, LineageRole, ManifestReference, Pointer};
use verdigris_core::settings::Settings;
use verdigris_core::timestamp::Timestamp;
use verdigris_engine::release::Release;
use verdigris_engine::segment::write::{SegmentShape, SegmentWriter};
use verdigris_engine::segment::{SegmentCache, SegmentPaths};
use verdigris_runtime::clock::Clock;
use verdigris_store::fetch::{VerifiedFiles, release_files};
use verdigris_store::s3::{S3Options, S3Store};
use verdigris_store::{Body, Precondition, Store, collection as objects, commit, digest_of_file, keys};

use crate::spoil::{Kind, Row};

/// Plants a bad candidate.
#[derive(Debug, Parser)]
struct Arguments {
    /// Address of the store, such as s3://verdigris/verdigris
    #[arg(long)]
    store: String,
    /// Address of the S3 server
    #[arg(long)]
    endpoint: String,
    #[arg(long, default_value = "products")]
    collection: CollectionName,
    /// What is wrong with it
    #[arg(long, value_enum)]
    kind: Kind,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let mut options = S3Options::parse(&arguments.store)?;
    (options.endpoint, options.path_style) = (Some(arguments.endpoint.clone()), true);
    options.region = Some("us-east-1".to_owned());
    let store = S3Store::connect(options).await?;
    let folder = tempfile::tempdir()?;
    let name = &arguments.collection;
    let pointer = objects::pointer(&store, name).await?.pointer;
    let active = pointer.active.as_ref().context("nothing answers yet")?;
    let (release, settings) = opened(&store, name, active, folder.path()).await?;
    let now = Timestamp(Clock::system().now_ns());
    let lineage = LineageId::from(format!("bad-{:?}-{}", arguments.kind, pointer.sequence).to_lowercase());
    let rows = spoil::rows(&release, arguments.kind)?;
    let segment = write(
        &store,
        name,
        &lineage,
        &settings,
        arguments.kind,
        &rows,
        &folder.path().join("new"),
    )
    .await?;
    let documents = rows.iter().filter(|row| row.vector.is_some()).count() as u64;
    let manifest = manifest(&release, lineage.clone(), segment, documents, now)?;
    let nonce = commit::nonce();
    let (path, bytes) = (manifest.path(&nonce), Bytes::from(manifest.encode()));
    let digest = Digest::of(&bytes);
    put(&store, name, &path, Body::Bytes(bytes)).await?;
    let reference = ManifestReference { path, digest };
    let named = commit::swing(&store, name, nonce.clone(), |pointer| {
        Ok(name_candidate(pointer, &manifest, &reference, nonce.clone(), now))
    });
    named.await?;
    println!("{}", json!({"lineage": lineage.as_str(), "documents": documents}));
    Ok(())
}

/// The release that answers, and the settings that it was written by.
async fn opened(
    store: &S3Store,
    name: &CollectionName,
    active: &LineagePointer,
    folder: &Path,
) -> anyhow::Result<(Release, Settings)> {
    let manifest = Arc::new(objects::manifest(store, name, &active.manifest).await?);
    let settings = objects::settings(store, &manifest.collection, &manifest.settings).await?;
    let cache = folder.join("cache");
    std::fs::create_dir(&cache)?;
    let files = Arc::new(VerifiedFiles::with_cache(&cache)?);
    let files = release_files(&files, store, &manifest).await?;
    let dead = objects::dead_rows(store, &manifest).await?;
    let parts = files.into_iter().zip(dead);
    let parts = parts.map(|((vectors, rows), dead)| (SegmentPaths { vectors, rows }.into(), Arc::new(dead)));
    let release = Release::open(manifest, parts.collect(), &SegmentCache::default())?;
    Ok((release, settings))
}

/// Writes all rows as one segment and sends its files.
async fn write(
    store: &S3Store,
    name: &CollectionName,
    lineage: &LineageId,
    settings: &Settings,
    kind: Kind,
    rows: &[Row],
    folder: &Path,
) -> anyhow::Result<SegmentEntry> {
    std::fs::create_dir(folder)?;
    let shape = SegmentShape {
        index_type: settings.ann.index_type,
        dimension: settings.embedder.dimension,
        text: &settings.text,
        threads: 1,
    };
    let mut writer = SegmentWriter::new(folder, shape)?;
    for row in rows {
        match &row.vector {
            Some(vector) => writer.add(&row.row, vector)?,
            None => writer.add_ghost(&row.row)?,
        }
    }
    let written = writer.finish()?;
    if kind == Kind::Graph {
        let mut bytes = std::fs::read(&written.paths.vectors)?;
        spoil::bend(&mut bytes, written.rows as usize)?;
        std::fs::write(&written.paths.vectors, bytes)?;
    }
    let id = SegmentId::from(format!("{lineage}-0"));
    let entry = |path: String, file: &Path| -> anyhow::Result<FileEntry> {
        let bytes = std::fs::metadata(file)?.len();
        let digest = digest_of_file(file)?;
        Ok(FileEntry { path, bytes, digest })
    };
    let files = SegmentFiles {
        vectors: entry(keys::vectors_path(&id), &written.paths.vectors)?,
        rows: entry(keys::rows_path(&id), &written.paths.rows)?,
    };
    put(
        store,
        name,
        &files.vectors.path,
        Body::File(written.paths.vectors.clone()),
    )
    .await?;
    put(store, name, &files.rows.path, Body::File(written.paths.rows.clone())).await?;
    Ok(written.entry(id, files))
}

/// It claims the content of what answers: who lost documents does not know it.
fn manifest(
    release: &Release,
    lineage: LineageId,
    segment: SegmentEntry,
    documents: u64,
    now: Timestamp,
) -> anyhow::Result<Manifest> {
    let active = release.manifest();
    let genesis = Manifest::genesis(Genesis {
        collection: active.collection.clone(),
        lineage,
        metric: active.metric,
        embedder: active.embedder.clone(),
        settings: active.settings.clone(),
        stream: active.checkpoint.stream,
    });
    let edited = genesis.apply(PublishEdit {
        generation: active.generation,
        created_at: now,
        writer: "by hand".to_owned(),
        nonce: commit::nonce(),
        add: vec![segment],
        remove: Vec::new(),
        dead: Default::default(),
        content: active.content,
        documents,
        checkpoint: active.checkpoint.clone(),
        watermark: active.watermark,
        settings: active.settings.clone(),
        stats: active.stats,
        reason: PublishReason::Publish,
    })?;
    Ok(edited.manifest)
}

fn name_candidate(
    pointer: &Pointer,
    manifest: &Manifest,
    reference: &ManifestReference,
    nonce: String,
    now: Timestamp,
) -> Pointer {
    let mut next = pointer.next(nonce, now);
    next.other = Some(LineagePointer {
        lineage: manifest.lineage.clone(),
        generation: manifest.generation,
        manifest: reference.clone(),
        role: LineageRole::Candidate,
        since: now,
    });
    next.other_settings = Some(manifest.settings.clone());
    next.other_release = Some(KeptRelease {
        generation: manifest.generation,
        lineage: manifest.lineage.clone(),
        manifest: reference.clone(),
        created_at: now,
        checkpoint: manifest.checkpoint.sequence,
        pinned: false,
        facts: None,
    });
    next
}

async fn put(store: &S3Store, name: &CollectionName, path: &str, body: Body) -> anyhow::Result<()> {
    store.put(&keys::object(name, path), body, Precondition::Absent).await?;
    Ok(())
}
