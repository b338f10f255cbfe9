//! Logs as text or JSON, and traces by OTLP where an endpoint is given.

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

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
    let filter = if telemetry.filter.is_empty() { "info" } else { &telemetry.filter };
    let filter = EnvFilter::try_new(filter).map_err(TelemetryError::Filter)?;
    let provider = telemetry.otlp_endpoint.as_deref().map(provider).transpose()?;
    let traces = provider.as_ref().map(|provider| tracing_opentelemetry::layer().with_tracer(provider.tracer("verdigris")));
    let logs = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    let registry = tracing_subscriber::registry().with(filter).with(traces);
    let begun = match telemetry.format {
        LogFormat::Text => registry.with(logs).try_init(),
        LogFormat::Json => registry.with(logs.json().flatten_event(true)).try_init(),
    };
    begun.map_err(TelemetryError::Twice)?;
    Ok(Guard(provider))
}

fn provider(endpoint: &str) -> Result<SdkTracerProvider, TelemetryError> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .build()
        .map_err(TelemetryError::Exporter)?;
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).build())
}
