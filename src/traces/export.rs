//! The way of spans to the collector: a bounded queue, and one thread of the library that sends what is in it. Whatever the collector
//! does, nobody waits for it; what becomes of spans is counted.
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use opentelemetry::{Context, Key, KeyValue};
use opentelemetry_otlp::{Protocol, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::resource::{EnvResourceDetector, ResourceDetector};
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, SdkTracerProvider, Span, SpanData, SpanExporter,
    SpanProcessor,
};
use prometheus::{IntCounter, IntCounterVec};

use super::variables::{TracesError, Variables};
use convgroup_chat::collector;

/// How long the end of the process waits for the last spans, an export that is under way included.
const LAST_SPANS_PATIENCE: Duration = Duration::from_secs(2);
/// The same, where the collector took nothing the last time, or has kept an export for longer.
const LAST_TRY_PATIENCE: Duration = Duration::from_millis(200);

/// What became of a span: the label of `convgroup_spans_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The collector has taken it.
    Exported,
    /// The collector has not.
    Failed,
    /// It was not even tried: too many waited.
    Dropped,
}

impl Fate {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Exported, Self::Failed, Self::Dropped];

    /// The label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Exported => "exported",
            Self::Failed => "failed",
            Self::Dropped => "dropped",
        }
    }
}

/// What is known of the spans on their way.
#[derive(Debug)]
pub(super) struct Tally {
    exported: IntCounter,
    failed: IntCounter,
    dropped: IntCounter,
    /// Spans that wait. The library's queue holds as many at most, and would not say that it dropped one.
    queued: AtomicUsize,
    queued_max: usize,
    /// Whether the last export failed.
    is_failing: AtomicBool,
    /// When the export under way began.
    exporting_since: Mutex<Option<Instant>>,
}

impl Tally {
    fn new(spans: &IntCounterVec, queued_max: usize) -> Self {
        let counter = |fate: Fate| spans.with_label_values(&[fate.label()]);
        Self {
            exported: counter(Fate::Exported),
            failed: counter(Fate::Failed),
            dropped: counter(Fate::Dropped),
            queued: AtomicUsize::new(0),
            queued_max,
            is_failing: AtomicBool::new(false),
            exporting_since: Mutex::new(None),
        }
    }

    /// How long the last spans are waited for.
    pub(super) fn patience(&self) -> Duration {
        if self.is_failing.load(Ordering::Relaxed) {
            return LAST_TRY_PATIENCE;
        }
        let since = *self.exporting_since();
        let waited = since.map_or(Duration::ZERO, |since| since.elapsed());
        let left = LAST_SPANS_PATIENCE.saturating_sub(waited);
        left.max(LAST_TRY_PATIENCE)
    }

    fn exporting_since(&self) -> MutexGuard<'_, Option<Instant>> {
        let since = self.exporting_since.lock();
        since.unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place in the queue, if there is one.
    fn queue(&self) -> bool {
        let queued = self.queued.fetch_add(1, Ordering::AcqRel);
        let has_room = queued < self.queued_max;
        if !has_room {
            self.queued.fetch_sub(1, Ordering::AcqRel);
            self.dropped.inc();
        }
        has_room
    }

    /// An export begins: what it takes waits no longer.
    fn exporting(&self, count: usize) {
        self.queued.fetch_sub(count, Ordering::AcqRel);
        *self.exporting_since() = Some(Instant::now());
    }

    fn exported(&self, count: u64, result: &OTelSdkResult) {
        *self.exporting_since() = None;
        let was_failing = self.is_failing.swap(result.is_err(), Ordering::Relaxed);
        match result {
            Ok(()) => {
                self.exported.inc_by(count);
                if was_failing {
                    tracing::info!("the collector takes traces again");
                }
            }
            Err(err) => {
                self.failed.inc_by(count);
                if !was_failing {
                    tracing::warn!(
                        error = %err,
                        "the collector does not take traces: these are lost, the work goes on, convgroup_spans_total counts them"
                    );
                }
            }
        }
    }
}

/// Starts the thread that sends.
pub(super) fn start(
    variables: Variables,
    spans: &IntCounterVec,
) -> Result<(SdkTracerProvider, Arc<Tally>), TracesError> {
    let tally = Arc::new(Tally::new(spans, variables.queue_spans));
    let building = {
        let tally = Arc::clone(&tally);
        // The client blocks, and is made outside of the runtime.
        thread::Builder::new().spawn(move || build(&variables, tally))
    };
    let building = building.map_err(|err| TracesError::Setup(err.to_string()))?;
    // Where its thread is refused, the library panics.
    let built = building.join();
    let built = built.map_err(|_| TracesError::Setup("no thread can be started".to_owned()))?;
    Ok((built?, tally))
}

fn build(variables: &Variables, tally: Arc<Tally>) -> Result<SdkTracerProvider, TracesError> {
    let client = collector::client(&variables.endpoint, variables.timeout);
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_http_client(client.map_err(TracesError::Client)?)
        .with_endpoint(variables.endpoint.as_str())
        .with_protocol(Protocol::HttpBinary)
        .with_timeout(variables.timeout)
        .build()
        // Its own words may quote the endpoint.
        .map_err(|_| TracesError::Setup("the exporter refuses the endpoint".to_owned()))?;
    let exporter = Counting {
        inner: exporter,
        tally: Arc::clone(&tally),
        is_broken: AtomicBool::new(false),
    };
    let batches = BatchConfigBuilder::default()
        .with_max_queue_size(variables.queue_spans)
        .build();
    let processor = BatchSpanProcessor::builder(exporter)
        .with_batch_config(batches)
        .build();
    Ok(SdkTracerProvider::builder()
        .with_span_processor(Bounded {
            inner: processor,
            tally,
        })
        .with_resource(resource())
        .build())
}

/// Who sends: what the environment says, else the name and version of this program.
fn resource() -> Resource {
    let said = EnvResourceDetector::new().detect();
    let is_said = |key: &'static str| said.get_ref(&Key::from_static_str(key)).is_some();
    let mut resource = Resource::builder();
    let named = std::env::var_os("OTEL_SERVICE_NAME").is_some_and(|name| !name.is_empty());
    if !named && !is_said("service.name") {
        resource = resource.with_service_name("convgroup-deleter");
    }
    if !is_said("service.version") {
        let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        resource = resource.with_attribute(version);
    }
    resource.build()
}

/// Takes spans into the queue while there is room, and counts those for which there is none.
#[derive(Debug)]
struct Bounded {
    inner: BatchSpanProcessor,
    tally: Arc<Tally>,
}

impl SpanProcessor for Bounded {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.inner.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if self.tally.queue() {
            self.inner.on_end(span);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// Sends, and counts what became of what it sent.
#[derive(Debug)]
struct Counting<E> {
    inner: E,
    tally: Arc<Tally>,
    /// It panicked: the client's own thread is gone, and with it the client.
    is_broken: AtomicBool,
}

impl<E: SpanExporter> SpanExporter for Counting<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len();
        self.tally.exporting(count);
        let broken = || OTelSdkError::InternalFailure("its client has ended".to_owned());
        let result = if self.is_broken.load(Ordering::Relaxed) {
            Err(broken())
        } else {
            let exported = AssertUnwindSafe(self.inner.export(batch));
            exported.catch_unwind().await.unwrap_or_else(|_| {
                self.is_broken.store(true, Ordering::Relaxed);
                Err(broken())
            })
        };
        self.tally.exported(count as u64, &result);
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use prometheus::Opts;

    use super::*;

    fn tally(queued_max: usize) -> Tally {
        let spans = IntCounterVec::new(Opts::new("spans", "spans"), &["result"]);
        Tally::new(&spans.unwrap(), queued_max)
    }

    fn counts(tally: &Tally) -> [u64; 3] {
        [&tally.exported, &tally.failed, &tally.dropped].map(IntCounter::get)
    }

    #[test]
    fn what_has_no_place_is_dropped_and_an_export_makes_room() {
        let tally = tally(2);
        assert_eq!([(); 3].map(|()| tally.queue()), [true, true, false]);
        tally.exporting(2);
        tally.exported(2, &Ok(()));
        assert!(tally.queue());
        assert_eq!(counts(&tally), [2, 0, 1]);
    }

    #[test]
    fn a_collector_that_took_nothing_gets_less_of_the_end() {
        let tally = tally(2);
        assert_eq!(tally.patience(), LAST_SPANS_PATIENCE);
        tally.exporting(0);
        *tally.exporting_since() = Instant::now().checked_sub(Duration::from_secs(9));
        assert_eq!(tally.patience(), LAST_TRY_PATIENCE);
        tally.exported(1, &Err(OTelSdkError::AlreadyShutdown));
        assert_eq!(tally.patience(), LAST_TRY_PATIENCE);
        tally.exporting(0);
        tally.exported(1, &Ok(()));
        assert_eq!(tally.patience(), LAST_SPANS_PATIENCE);
        assert_eq!(counts(&tally), [1, 1, 0]);
    }
}
