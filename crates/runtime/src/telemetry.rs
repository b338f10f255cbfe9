//! Logs as text or JSON, and traces by OTLP where an endpoint is given.

use opentelemetry::propagation::Extractor;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tonic::codegen::http::HeaderMap;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::traces;

/// How logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// A JSON object a line.
    Json,
}

/// What is logged, and where traces go.
#[derive(Debug, Clone, Default)]
pub struct Telemetry {
    /// How logs are written.
    pub format: LogFormat,
    /// Which logs, in the syntax of `tracing_subscriber::EnvFilter`; `info` when empty.
    pub filter: String,
    /// OTLP endpoint (gRPC) of a collector; no traces without it.
    pub otlp_endpoint: Option<String>,
}

/// Telemetry that could not begin.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// A filter that is none.
    #[error("log filter is not valid")]
    Filter(#[source] tracing_subscriber::filter::ParseError),
    /// An endpoint that cannot be used.
    #[error("trace exporter cannot be built")]
    Exporter(#[source] opentelemetry_otlp::ExporterBuildError),
    /// Called twice.
    #[error("telemetry was begun already")]
    Twice(#[source] tracing_subscriber::util::TryInitError),
}

/// Flushes traces when it is dropped.
pub struct Guard(Option<SdkTracerProvider>);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(provider) = self.0.take() {
            // At the end of the process nobody is left to be told.
            let _ = provider.shutdown();
        }
    }
}

/// Begins telemetry for the process; logs go to standard error. Only a `main` calls this, inside a tokio runtime.
pub fn begin(telemetry: &Telemetry) -> Result<Guard, TelemetryError> {
    let filter = if telemetry.filter.is_empty() {
        "info"
    } else {
        &telemetry.filter
    };
    let filter = EnvFilter::try_new(filter).map_err(TelemetryError::Filter)?;
    let provider = telemetry.otlp_endpoint.as_deref().map(provider).transpose()?;
    let layer = provider
        .as_ref()
        .map(|provider| tracing_opentelemetry::layer().with_tracer(provider.tracer(traces::TRACER)))
        // Whatever is logged: a filter of logs says nothing of traces.
        .map(|layer| layer.with_filter(LevelFilter::INFO));
    let logs = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_target(false);
    let registry = tracing_subscriber::registry().with(layer);
    let begun = match telemetry.format {
        LogFormat::Text => registry.with(logs.with_filter(filter)).try_init(),
        LogFormat::Json => registry
            .with(logs.json().flatten_event(true).with_filter(filter))
            .try_init(),
    };
    begun.map_err(TelemetryError::Twice)?;
    if let Some(provider) = &provider {
        opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
        opentelemetry::global::set_tracer_provider(provider.clone());
        traces::exporting_began();
    }
    Ok(Guard(provider))
}

fn provider(endpoint: &str) -> Result<SdkTracerProvider, TelemetryError> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .build()
        .map_err(TelemetryError::Exporter)?;
    Ok(SdkTracerProvider::builder()
        .with_id_generator(traces::Ids::default())
        .with_batch_exporter(exporter)
        .build())
}

/// The span of one call; it goes on with the client's trace where the headers name one (W3C `traceparent`).
pub(crate) fn call_span(method: &str, headers: &HeaderMap) -> tracing::Span {
    let span = tracing::info_span!("call", method);
    if headers.contains_key("traceparent") {
        let parent = opentelemetry::global::get_text_map_propagator(|propagator| propagator.extract(&Headers(headers)));
        // Refused where no traces are exported, and then there is nothing to go on with.
        let _ = span.set_parent(parent);
    }
    span
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(|name| name.as_str()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use opentelemetry_sdk::error::OTelSdkResult;
    use opentelemetry_sdk::trace::{SpanData, SpanExporter};

    use super::*;

    #[derive(Debug, Clone, Default)]
    struct Kept(Arc<Mutex<Vec<SpanData>>>);

    impl SpanExporter for Kept {
        async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
            self.0.lock().expect("unbroken").extend(batch);
            Ok(())
        }
    }

    #[test]
    fn a_call_goes_on_with_the_trace_of_its_client() {
        opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
        let kept = Kept::default();
        let provider = SdkTracerProvider::builder().with_simple_exporter(kept.clone()).build();
        let traces = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        let trace = "0af7651916cd43dd8448eb211c80319c";
        let parent = format!("00-{trace}-b7ad6b7169203331-01").parse().expect("ASCII");
        let headers = HeaderMap::from_iter([("traceparent".parse().expect("a name"), parent)]);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(traces), || {
            drop(call_span("/test.v1.Test/Call", &headers).entered());
        });
        let spans = kept.0.lock().expect("unbroken");
        assert_eq!(spans.len(), 1);
        assert_eq!(spans[0].span_context.trace_id().to_string(), trace);
        assert_eq!(spans[0].parent_span_id.to_string(), "b7ad6b7169203331");
    }

    #[test]
    fn a_filter_that_is_none_is_an_error() {
        let telemetry = Telemetry {
            filter: "info,=x=y".to_owned(),
            ..Telemetry::default()
        };
        assert!(matches!(begin(&telemetry), Err(TelemetryError::Filter(_))));
    }
}
