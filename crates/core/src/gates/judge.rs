//! The verdict: each gate compares one measured number with its limit. A number that is none (NaN) passes nothing.

use super::{
    DeletesChecked, FilesVerified, Gate, GateOutcome, GateSettings, GateVerdict, GoldenResult, KnownItems,
    LatencyMeasured, LineageFacts, LoadedModel, Measured, Measurements, MemoryMeasured, RecallMeasured, RowsCounted,
    SameGeneration, SampledQueries, TextsChecked, VectorsChecked, Verdict,
};
use crate::index_type::IndexType;

/// A lead that is noise where few were asked: this many queries or documents more than the active's are let pass.
const FEW: f64 = 2.0;

/// Judges what was measured. Every gate gets an entry.
pub fn judge(settings: &GateSettings, measurements: &Measurements) -> Verdict {
    let gates = Gate::ALL.into_iter().map(|gate| {
        let finding = if settings.off.contains(&gate) {
            Finding::not_applicable("switched off by settings")
        } else {
            find(gate, settings, measurements)
        };
        GateVerdict {
            gate,
            outcome: finding.outcome,
            measured: finding.numbers.map(|(measured, _)| measured).filter(|n| n.is_finite()),
            limit: finding.numbers.map(|(_, limit)| limit).filter(|n| n.is_finite()),
            text: finding.text,
        }
    });
    Verdict {
        lineage: measurements.candidate.lineage.clone(),
        generation: measurements.candidate.generation,
        manifest: measurements.candidate.manifest,
        measured_at: measurements.measured_at,
        gates: gates.collect(),
    }
}

fn find(gate: Gate, settings: &GateSettings, m: &Measurements) -> Finding {
    let candidate = &m.candidate;
    let active = |judge: &dyn Fn(&LineageFacts) -> Finding| of(&m.active, judge);
    // A gate that compares has no subject before there is anything to compare with.
    let beside = |finding: &dyn Fn() -> Finding| match &m.active {
        Measured::NotApplicable(why) => Finding::not_applicable(why),
        Measured::Missing(_) | Measured::Value(_) => finding(),
    };
    match gate {
        Gate::Files => of(&m.files, files),
        Gate::Rows => of(&m.rows, |rows| rows_counted(candidate, rows)),
        Gate::Content => beside(&|| of(&m.same_generation, |same| content(candidate, same))),
        Gate::Dimension => of(&m.model, |model| dimension(candidate, model)),
        Gate::Embedder => of(&m.model, |model| embedder(candidate, model)),
        Gate::Vectors => due_where(candidate.chunks > 0, &m.vectors, |vectors| {
            vectors_right(settings, vectors)
        }),
        Gate::Documents => active(&|active| {
            let text = "documents fewer than the active";
            shrink(
                candidate.documents,
                active.documents,
                settings.documents_shrink_max,
                text,
            )
        }),
        Gate::Bytes => active(&|active| {
            let text = "bytes of stored documents fewer than the active";
            shrink(candidate.live_bytes, active.live_bytes, settings.bytes_shrink_max, text)
        }),
        Gate::Texts => beside(&|| of(&m.texts, |texts| texts_there(settings, texts))),
        Gate::Deletes => of(&m.deletes, deletes),
        Gate::KnownItems => beside(&|| of(&m.known_items, |known| known_items(settings, known))),
        Gate::Recall => {
            let is_due = candidate.index_types.iter().any(|kind| *kind != IndexType::Flat);
            due_where(is_due, &m.recall, |measured| recall(settings, measured))
        }
        Gate::Golden => of(&m.golden, |results| golden(settings, results)),
        Gate::Overlap => active(&|active| {
            let is_same = active.embedder == candidate.embedder && active.settings == candidate.settings;
            of(&m.queries, |queries| overlap(settings, queries, is_same))
        }),
        Gate::ZeroHits => beside(&|| of(&m.queries, |queries| zero_hits(settings, queries))),
        Gate::Latency => beside(&|| of(&m.latency, |measured| latency(settings, measured))),
        Gate::Memory => of(&m.memory, |measured| memory(settings, measured)),
        Gate::Ready => of(&m.ready_ms, |ms| {
            let seconds = *ms as f64 / 1_000.0;
            at_most(
                seconds,
                f64::from(settings.ready_seconds_max),
                "seconds until it was ready",
            )
        }),
    }
}

struct Finding {
    outcome: GateOutcome,
    /// Measured, and the limit.
    numbers: Option<(f64, f64)>,
    text: String,
}

impl Finding {
    fn not_applicable(why: &str) -> Self {
        Self {
            outcome: GateOutcome::NotApplicable,
            numbers: None,
            text: why.to_owned(),
        }
    }

    fn no_data(why: &str) -> Self {
        Self {
            outcome: GateOutcome::NoData,
            numbers: None,
            text: why.to_owned(),
        }
    }

    fn passed_if(passed: bool, numbers: Option<(f64, f64)>, text: String) -> Self {
        let outcome = if passed {
            GateOutcome::Passed
        } else {
            GateOutcome::Failed
        };
        Self { outcome, numbers, text }
    }

    /// The same with more words.
    fn with(mut self, more: &str) -> Self {
        if !more.is_empty() {
            self.text = format!("{}; {more}", self.text);
        }
        self
    }
}

fn of<T>(measured: &Measured<T>, judge: impl FnOnce(&T) -> Finding) -> Finding {
    match measured {
        Measured::Value(value) => judge(value),
        Measured::NotApplicable(why) => Finding::not_applicable(why),
        Measured::Missing(why) => Finding::no_data(why),
    }
}

/// Where the facts say that there is a subject, "not applicable" is only another word for "not measured".
fn due_where<T>(is_due: bool, measured: &Measured<T>, judge: impl FnOnce(&T) -> Finding) -> Finding {
    match of(measured, judge) {
        Finding {
            outcome: GateOutcome::NotApplicable,
            text,
            ..
        } if is_due => Finding::no_data(&format!("it is due, but: {text}")),
        finding => finding,
    }
}

fn at_most(measured: f64, limit: f64, what: &str) -> Finding {
    let text = format!("{what}: {}, at most {}", shown(measured), shown(limit));
    Finding::passed_if(measured <= limit, Some((measured, limit)), text)
}

fn at_least(measured: f64, limit: f64, what: &str) -> Finding {
    let text = format!("{what}: {}, at least {}", shown(measured), shown(limit));
    Finding::passed_if(measured >= limit, Some((measured, limit)), text)
}

/// A number as people read it: no more than four decimals, and none that say nothing.
fn shown(number: f64) -> String {
    let text = format!("{number:.4}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

fn files(files: &FilesVerified) -> Finding {
    if files.verified + (files.damaged.len() as u64) < files.named {
        let text = format!("only {} of {} files were read", files.verified, files.named);
        return Finding::no_data(&text);
    }
    let names = files.damaged.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
    at_most(files.damaged.len() as f64, 0.0, "files that are damaged").with(&names)
}

fn rows_counted(candidate: &LineageFacts, rows: &RowsCounted) -> Finding {
    let wrong = if rows.duplicates > 0 {
        format!("{} documents are there more than once", rows.duplicates)
    } else if rows.documents != candidate.documents {
        format!(
            "the manifest names {} documents, its rows are {}",
            candidate.documents, rows.documents
        )
    } else if rows.content != candidate.content {
        "the stored documents do not add up to the manifest's content".to_owned()
    } else {
        let text = format!(
            "{} documents, each once, add up to the manifest's content",
            rows.documents
        );
        return Finding::passed_if(true, Some((0.0, 0.0)), text);
    };
    let off = rows.duplicates.max(rows.documents.abs_diff(candidate.documents)).max(1);
    Finding::passed_if(false, Some((off as f64, 0.0)), wrong)
}

fn content(candidate: &LineageFacts, same: &SameGeneration) -> Finding {
    if same.generation != candidate.generation {
        let text = format!(
            "compared with generation {}, not {}",
            same.generation, candidate.generation
        );
        return Finding::no_data(&text);
    }
    let (ours, theirs) = (&candidate.checkpoint, &same.checkpoint);
    let wrong = if (ours.stream, ours.sequence) != (theirs.stream, theirs.sequence) {
        format!(
            "it has read the log up to {}, the active up to {}",
            ours.sequence, theirs.sequence
        )
    } else if same.documents != candidate.documents {
        format!(
            "it has {} documents, the active {}",
            candidate.documents, same.documents
        )
    } else if same.content != candidate.content {
        "it has other documents, or other states of them, than the active".to_owned()
    } else {
        let text = format!("the active's content at generation {}", same.generation);
        return Finding::passed_if(true, None, text);
    };
    Finding::passed_if(false, None, wrong)
}

fn dimension(candidate: &LineageFacts, model: &LoadedModel) -> Finding {
    let expected = candidate.dimension;
    let embedders = [candidate.embedder.dimension, model.embedder.dimension];
    let other = embedders
        .iter()
        .chain(&model.file_dimensions)
        .find(|found| **found != expected);
    match other {
        Some(other) => {
            let text = format!("the manifest has {expected} coordinates a vector, something else {other}");
            Finding::passed_if(false, Some((f64::from(*other), f64::from(expected))), text)
        }
        None if model.file_dimensions.is_empty() && candidate.chunks > 0 => Finding::no_data("no file was opened"),
        None => {
            let numbers = Some((f64::from(expected), f64::from(expected)));
            Finding::passed_if(true, numbers, format!("{expected} coordinates a vector everywhere"))
        }
    }
}

fn embedder(candidate: &LineageFacts, model: &LoadedModel) -> Finding {
    let name = &candidate.embedder.model;
    if model.embedder == candidate.embedder {
        Finding::passed_if(true, None, format!("{name} embeds documents and queries"))
    } else {
        let loaded = &model.embedder.model;
        let text =
            format!("documents are said to be embedded by {name}, queries are by {loaded}, or another revision of it");
        Finding::passed_if(false, None, text)
    }
}

fn vectors_right(settings: &GateSettings, vectors: &VectorsChecked) -> Finding {
    if vectors.sampled == 0 {
        return Finding::no_data("no vector was looked at");
    }
    let what = format!("share of {} vectors that are those of their texts", vectors.sampled);
    let wrong = vectors.wrong.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
    at_least(share(vectors.right, vectors.sampled), settings.vectors_right_min, &what).with(&wrong)
}

fn shrink(now: u64, before: u64, limit: f64, what: &str) -> Finding {
    if before == 0 {
        return Finding::not_applicable("the active has none");
    }
    let lost = before.saturating_sub(now);
    at_most(share(lost, before), limit, &format!("share of {what}")).with(&format!("{now} of {before}"))
}

fn texts_there(settings: &GateSettings, texts: &TextsChecked) -> Finding {
    if texts.sampled == 0 {
        return Finding::no_data("no text was looked at");
    }
    let without = texts.absent + texts.empty;
    let rise = share(without, texts.sampled) - share(texts.empty_active, texts.sampled);
    let what = format!("rise of the share without text, of {} documents", texts.sampled);
    at_most(rise, settings.texts_empty_rise_max, &what)
}

fn deletes(deletes: &DeletesChecked) -> Finding {
    if deletes.sampled == 0 {
        return Finding::no_data("no deleted document was looked for");
    }
    let what = format!("of {} deleted documents, found", deletes.sampled);
    let names = deletes.leaked.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
    at_most(deletes.leaked.len() as f64, 0.0, &what).with(&names)
}

fn known_items(settings: &GateSettings, known: &KnownItems) -> Finding {
    if known.sampled == 0 {
        return Finding::no_data("no document was looked for");
    }
    let lost = known.found_active as f64 - known.found as f64;
    let what = format!(
        "drop of the share of {} documents found by their own text",
        known.sampled
    );
    // Few of few may differ by chance: a limit below two documents would judge noise.
    let limit = settings.known_items_drop_max.max((FEW / known.sampled as f64).min(0.5));
    at_most(lost / known.sampled as f64, limit, &what)
}

fn recall(settings: &GateSettings, recall: &RecallMeasured) -> Finding {
    if recall.sampled == 0 {
        return Finding::no_data("no vector was searched for");
    }
    let what = format!("recall@10 against an exact search of {} vectors", recall.sampled);
    let floor = at_least(recall.recall, settings.recall_min, &what);
    match recall.active {
        Some(active) if floor.outcome == GateOutcome::Passed => {
            let beside = at_least(recall.recall, active - settings.recall_drop_max, &what);
            if beside.outcome == GateOutcome::Passed {
                floor.with(&format!("the active has {}", shown(active)))
            } else {
                beside.with(&format!("the active has {}", shown(active)))
            }
        }
        _ => floor,
    }
}

fn golden(settings: &GateSettings, results: &[GoldenResult]) -> Finding {
    if results.is_empty() {
        return Finding::no_data("no golden query was asked");
    }
    if let Some(result) = results.iter().find(|result| !result.missing.is_empty()) {
        let text = format!(
            "{:?} must find {} and does not",
            result.query,
            result.missing.join(", ")
        );
        return Finding::passed_if(false, Some((result.missing.len() as f64, 0.0)), text);
    }
    let judged = |result: &&GoldenResult| result.floor.is_some();
    for result in results.iter().filter(judged) {
        let Some(ndcg) = result.ndcg else {
            return Finding::no_data(&format!("{:?} has a floor and was not judged", result.query));
        };
        let floor = at_least(
            ndcg,
            result.floor.unwrap_or(0.0),
            &format!("NDCG@10 of {:?}", result.query),
        );
        if floor.outcome == GateOutcome::Failed {
            return floor;
        }
    }
    let pairs: Vec<(f64, f64)> = results.iter().filter_map(|r| r.ndcg.zip(r.ndcg_active)).collect();
    if pairs.is_empty() {
        let text = format!("{} golden queries find what they must", results.len());
        return Finding::passed_if(true, Some((0.0, 0.0)), text);
    }
    let drop: f64 = pairs.iter().map(|(ours, active)| active - ours).sum::<f64>() / pairs.len() as f64;
    let what = format!("drop of the mean NDCG@10 of {} golden queries", pairs.len());
    at_most(drop, settings.golden_drop_max, &what)
}

fn overlap(settings: &GateSettings, queries: &SampledQueries, is_same: bool) -> Finding {
    if queries.sampled == 0 {
        return Finding::no_data("no query was asked");
    }
    let limit = if is_same {
        settings.overlap_min
    } else {
        settings.overlap_changed_min
    };
    let what = format!("overlap@10 with the active's answers to {} queries", queries.sampled);
    let overlap = at_least(queries.overlap, limit, &what);
    if overlap.outcome == GateOutcome::Failed || !is_same {
        return overlap.with(queries.least.first().map_or("", String::as_str));
    }
    let ranks = at_most(queries.rank_change, settings.rank_change_max, "mean change of rank");
    match ranks.outcome {
        GateOutcome::Passed => overlap.with(&ranks.text),
        _ => ranks.with(&overlap.text),
    }
}

fn zero_hits(settings: &GateSettings, queries: &SampledQueries) -> Finding {
    if queries.sampled == 0 {
        return Finding::no_data("no query was asked");
    }
    let rise = queries.zero_hits as f64 - queries.zero_hits_active as f64;
    let what = format!("rise of the share of {} queries without a hit", queries.sampled);
    let limit = settings.zero_hits_rise_max.max((FEW / queries.sampled as f64).min(0.5));
    at_most(rise / queries.sampled as f64, limit, &what)
}

fn latency(settings: &GateSettings, latency: &LatencyMeasured) -> Finding {
    if latency.sampled == 0 {
        return Finding::no_data("no query was asked");
    }
    let limit = |active: f64| (active * settings.latency_ratio_max).max(f64::from(settings.latency_floor_ms));
    let half = at_most(
        latency.p50_ms,
        limit(latency.active_p50_ms),
        "milliseconds of half the answers",
    );
    let tail = at_most(
        latency.p99_ms,
        limit(latency.active_p99_ms),
        "milliseconds of 99 in 100 answers",
    );
    match half.outcome {
        GateOutcome::Failed => half.with(&tail.text),
        _ => tail.with(&half.text),
    }
}

fn memory(settings: &GateSettings, memory: &MemoryMeasured) -> Finding {
    let needed = memory.bytes as f64 * settings.memory_ratio_min;
    at_most(needed, memory.limit_bytes as f64, "bytes of memory needed")
}
