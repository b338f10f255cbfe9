//! Traces across processes: an event's way to the release that holds it, and from an answer to its release.
//!
//! The span of a release has ids that are made of its name, so that whoever answers from it can link to it without
//! having been told anything by whoever published it. Where no traces are exported, all of this does nothing.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{
    Link, Span as _, SpanBuilder, SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState, Tracer,
};
use opentelemetry::{Context, KeyValue, global};
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator};
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// Name of the instrument in all spans.
pub(crate) const TRACER: &str = "verdigris";
/// Events of one release that are traced one by one: a feed of millions must not become millions of spans.
pub const EVENTS_MAX: usize = 128;

static IS_EXPORTING: AtomicBool = AtomicBool::new(false);

/// Whether traces are exported at all: what is gathered only for them can be left out otherwise.
pub fn is_exporting() -> bool {
    IS_EXPORTING.load(Ordering::Relaxed)
}

pub(crate) fn exporting_began() {
    IS_EXPORTING.store(true, Ordering::Relaxed);
}

/// A place in a trace that goes on elsewhere.
#[derive(Debug, Clone, PartialEq)]
pub struct Trace(SpanContext);

/// A release by its name.
#[derive(Debug, Clone, Copy)]
pub struct ReleaseName<'a> {
    /// Its collection.
    pub collection: &'a str,
    /// Its lineage.
    pub lineage: &'a str,
    /// Its generation.
    pub generation: u64,
}

// === impl Trace ===

impl Trace {
    /// Of the call that is being answered.
    pub fn current() -> Option<Self> {
        if !is_exporting() {
            return None;
        }
        let context = tracing::Span::current().context();
        let context = context.span().span_context().clone();
        context.is_sampled().then_some(Self(context))
    }

    /// Of a W3C `traceparent`, such as a CloudEvent has as an extension; none where it is none, or is not sampled.
    pub fn parse(traceparent: &str) -> Option<Self> {
        let mut parts = traceparent.split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        if version.len() != 2 || version == "ff" || trace.len() != 32 || span.len() != 16 {
            return None;
        }
        let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?);
        let (trace, span) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?);
        let context = SpanContext::new(trace, span, flags, true, TraceState::NONE);
        (context.is_valid() && context.is_sampled()).then_some(Self(context))
    }

    /// Notes a step of an event in its trace, and that this call took it.
    pub fn accepted(&self, collection: &str) {
        if !is_exporting() {
            return;
        }
        let call = tracing::Span::current();
        call.add_link(self.0.clone());
        let of_call = call.context().span().span_context().clone();
        let links = Some(of_call).filter(SpanContext::is_valid).map(link);
        let attributes = vec![KeyValue::new("verdigris.collection", collection.to_owned())];
        let builder = SpanBuilder::from_name("accept")
            .with_attributes(attributes)
            .with_links(links.into_iter().collect());
        self.child(builder).end();
    }

    fn child(&self, builder: SpanBuilder) -> global::BoxedSpan {
        let parent = Context::new().with_remote_span_context(self.0.clone());
        global::tracer(TRACER).build_with_context(builder, &parent)
    }
}

// === impl ReleaseName ===

impl ReleaseName<'_> {
    fn ids(self) -> (TraceId, SpanId) {
        let name = format!("{}/{}/{}", self.collection, self.lineage, self.generation);
        let hash = blake3::hash(name.as_bytes());
        let (mut trace, mut span) = ([0; 16], [0; 8]);
        trace.copy_from_slice(&hash.as_bytes()[..16]);
        span.copy_from_slice(&hash.as_bytes()[16..24]);
        (TraceId::from_bytes(trace), SpanId::from_bytes(span))
    }

    fn context(self) -> SpanContext {
        let (trace, span) = self.ids();
        SpanContext::new(trace, span, TraceFlags::SAMPLED, true, TraceState::NONE)
    }

    fn attributes(self) -> Vec<KeyValue> {
        vec![
            KeyValue::new("verdigris.collection", self.collection.to_owned()),
            KeyValue::new("verdigris.lineage", self.lineage.to_owned()),
            KeyValue::new("verdigris.generation", self.generation as i64),
        ]
    }

    /// Notes that the release was published between two moments (nanoseconds since the epoch), with these events in it:
    /// in the release's own trace, which links to the events, and in the trace of each event, which links to the release.
    pub fn published(self, (began_ns, ended_ns): (i64, i64), events: &[Trace]) {
        if !is_exporting() {
            return;
        }
        let events = &events[..events.len().min(EVENTS_MAX)];
        let (began, ended) = (moment(began_ns), moment(ended_ns));
        let builder = |name: &'static str, links: Vec<Link>| {
            SpanBuilder::from_name(name)
                .with_start_time(began)
                .with_attributes(self.attributes())
                .with_links(links)
        };
        let of_events = events.iter().map(|event| link(event.0.clone())).collect();
        NEXT.set(Some(self.ids()));
        let mut span = global::tracer(TRACER).build_with_context(builder("release", of_events), &Context::new());
        NEXT.set(None);
        span.end_with_timestamp(ended);
        for event in events {
            let mut span = event.child(builder("publish", vec![link(self.context())]));
            span.end_with_timestamp(ended);
        }
    }

    /// Notes that the call which is being answered is answered from this release.
    pub fn answers(self) {
        if !is_exporting() {
            return;
        }
        let call = tracing::Span::current();
        call.add_link(self.context());
        for KeyValue { key, value, .. } in self.attributes() {
            call.set_attribute(key, value);
        }
    }
}

fn link(context: SpanContext) -> Link {
    Link::with_context(context)
}

fn moment(ns: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_nanos(u64::try_from(ns).unwrap_or(0))
}

thread_local! {
    /// Ids of the span that this thread makes next, where they are not to be random.
    static NEXT: Cell<Option<(TraceId, SpanId)>> = const { Cell::new(None) };
}

/// Random ids, but for spans of releases.
#[derive(Debug, Default)]
pub(crate) struct Ids(RandomIdGenerator);

impl IdGenerator for Ids {
    fn new_trace_id(&self) -> TraceId {
        NEXT.get().map_or_else(|| self.0.new_trace_id(), |(trace, _)| trace)
    }

    fn new_span_id(&self) -> SpanId {
        NEXT.get().map_or_else(|| self.0.new_span_id(), |(_, span)| span)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_read_and_what_is_none_is_not() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let trace = Trace::parse(good).expect("a trace");
        assert_eq!(trace.0.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
        for wrong in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b71692033-01",
            "00-zzf7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert_eq!(Trace::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn ids_of_a_release_are_made_of_its_name() {
        let name = |generation| ReleaseName {
            collection: "products",
            lineage: "l",
            generation,
        };
        assert_eq!(name(7).ids(), name(7).ids());
        assert_ne!(name(7).ids(), name(8).ids());
    }
}
