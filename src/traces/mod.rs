//! Traces: three kinds of spans, made by hand and sent to a collector over OTLP.
//!
//! One span for each delivery (CONSUMER), below it one for each call of the API (CLIENT) and one for each message that is published
//! (PRODUCER). Without an endpoint in the environment nothing of this exists: no thread, no connection, and one look at an `Option`
//! for each of these.
//!
//! Not here: the context that travels with messages. `traceparent` stays the requester's (`broker/successor.rs`), so every hop of a
//! message is a span below the same parent.
mod attributes;
mod export;
pub(crate) mod parent;
mod variables;

use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use opentelemetry::trace::{
    Link, Span as _, SpanBuilder, SpanKind, Status, TraceContextExt, Tracer, TracerProvider,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use prometheus::IntCounterVec;

use attributes::Api;
use convgroup_broker::address::BrokerAddress;
use convgroup_broker::delivery::Message;
use convgroup_broker::settle::{Op, Published};
use convgroup_chat::client::Made;
use convgroup_chat::endpoint::Endpoint;
use convgroup_domain::code::Verdict;
use convgroup_domain::decide::{Outcome, Summary};
use convgroup_domain::outcome::OutcomeEvent;
use convgroup_domain::reply::CallKind;

pub use export::Fate;
pub use variables::TracesError;
use variables::Variables;

/// Makes spans. One for the process.
pub struct Traces {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    tally: Arc<export::Tally>,
    /// The main queue.
    queue: Arc<str>,
    api: Api,
}

impl fmt::Debug for Traces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Traces")
    }
}

impl Traces {
    /// Makes spans if the environment names a collector. `spans` counts what becomes of them.
    ///
    /// # Errors
    /// A variable is wrong, or this machine lets no client be set up.
    pub fn from_env(
        queue: &str,
        endpoint: &Endpoint,
        spans: &IntCounterVec,
    ) -> Result<Option<Self>, TracesError> {
        let Some(variables) = Variables::read(variables::of_process)? else {
            return Ok(None);
        };
        for ignored in &variables.ignored {
            tracing::warn!("{ignored}");
        }
        let collector = variables.shown();
        let (provider, tally) = export::start(variables, spans)?;
        tracing::info!(otel.collector = collector, "traces are sent");
        Ok(Some(Self {
            tracer: provider.tracer("convgroup-deleter"),
            provider,
            tally,
            queue: queue.into(),
            api: Api::new(endpoint),
        }))
    }

    /// The span of a delivery; it begins when work begins.
    #[must_use]
    pub fn delivery<'t>(&'t self, message: &'t Message, node: &'t BrokerAddress) -> Delivery<'t> {
        Delivery {
            traces: self,
            message,
            node,
            begun: OnceLock::new(),
        }
    }

    /// A probe: a call of its own, no part of any delivery.
    pub fn probed(&self, made: Made, verdict: &Verdict) {
        let ended = Moments::ended(made.started, made.took);
        self.called(&Context::new(), ended, made, verdict, CallKind::Delete, 0);
    }

    /// Sends what waits, for a bounded time: the end of the process. A collector that takes nothing gets less of it.
    pub fn stop(&self) {
        // Whatever is left then is lost with the process; nobody has to be told.
        let _ = self.provider.shutdown_with_timeout(self.tally.patience());
    }

    fn called(
        &self,
        parent: &Context,
        moments: Moments,
        made: Made,
        verdict: &Verdict,
        kind: CallKind,
        resends: u32,
    ) {
        let attributes = attributes::of_call(&self.api, made, verdict, kind, resends);
        self.past(parent, SpanKind::Client, "POST".into(), moments, attributes);
    }

    /// A span of something that is over.
    fn past(
        &self,
        parent: &Context,
        kind: SpanKind,
        name: Cow<'static, str>,
        moments: Moments,
        attributes: Vec<KeyValue>,
    ) {
        let status = status_of(&attributes);
        let builder = SpanBuilder::from_name(name)
            .with_kind(kind)
            .with_start_time(moments.start)
            .with_attributes(attributes);
        let mut span = self.tracer.build_with_context(builder, parent);
        if let Some(status) = status {
            span.set_status(status);
        }
        span.end_with_timestamp(moments.end);
    }
}

/// A span that says what went wrong has failed, and no other.
fn status_of(attributes: &[KeyValue]) -> Option<Status> {
    let mut keys = attributes.iter().map(|attribute| attribute.key.as_str());
    keys.any(|key| key == attributes::ERROR_TYPE)
        .then(|| Status::error(""))
}

/// Start and end of a span, by the wall clock.
#[derive(Clone, Copy)]
struct Moments {
    start: SystemTime,
    end: SystemTime,
}

impl Moments {
    /// Of something that began then and took so long.
    fn ended(started: Instant, took: Duration) -> Self {
        let start = SystemTime::now() - started.elapsed();
        Self {
            start,
            end: start + took,
        }
    }
}

/// How the work on a delivery ended.
#[derive(Clone, Copy, Debug)]
pub enum End<'e> {
    /// It was settled.
    Settled(&'e Summary),
    /// A step of settling failed; the message comes back.
    Unsettled(Op),
    /// The session with the broker was over before; the message comes back.
    Lost,
}

/// The span of one delivery, which may not have begun: what only waits for its turn is not worked on.
pub struct Delivery<'t> {
    traces: &'t Traces,
    message: &'t Message,
    node: &'t BrokerAddress,
    begun: OnceLock<Option<Begun>>,
}

/// A span that has begun and is to be recorded.
struct Begun {
    /// Holds the span.
    context: Context,
    trace_id: String,
    /// The same moment by both clocks: later ones are counted from it.
    start: SystemTime,
    began: Instant,
}

impl Begun {
    fn moments(&self, started: Instant, took: Duration) -> Moments {
        let start = self.start + started.saturating_duration_since(self.began);
        Moments {
            start,
            end: start + took,
        }
    }
}

impl Delivery<'_> {
    /// Work begins, if it has not. Whether the span is recorded is decided here, by its parent or the sampler.
    pub fn begin(&self) {
        self.begun.get_or_init(|| self.start());
    }

    fn start(&self) -> Option<Begun> {
        let (start, began) = (SystemTime::now(), Instant::now());
        let [traceparent, tracestate] = self.message.trace();
        let parent = traceparent.and_then(|it| parent::read(&it, tracestate.as_deref()));
        let traces = self.traces;
        let mut builder = SpanBuilder::from_name(format!("process {}", traces.queue))
            .with_kind(SpanKind::Consumer)
            .with_start_time(start)
            .with_attributes(attributes::of_delivery(
                self.message,
                &traces.queue,
                self.node,
            ));
        let mut parents = Context::new();
        if let Some(parent) = parent {
            builder = builder.with_links(vec![Link::with_context(parent.clone())]);
            parents = parents.with_remote_span_context(parent);
        }
        let span = traces.tracer.build_with_context(builder, &parents);
        if !span.is_recording() {
            return None;
        }
        Some(Begun {
            trace_id: span.span_context().trace_id().to_string(),
            context: Context::new().with_span(span),
            start,
            began,
        })
    }

    fn begun(&self) -> Option<&Begun> {
        self.begun.get()?.as_ref()
    }

    /// What log lines name the trace by, while the span is recorded.
    #[must_use]
    pub fn trace_id(&self) -> Option<&str> {
        self.begun().map(|begun| begun.trace_id.as_str())
    }

    /// A call was made for it; `resends` counts those before it for the same name or page.
    pub fn called(&self, made: Made, verdict: &Verdict, kind: CallKind, resends: u32) {
        if let Some(begun) = self.begun() {
            let moments = begun.moments(made.started, made.took);
            self.traces
                .called(&begun.context, moments, made, verdict, kind, resends);
        }
    }

    /// A copy of it, or its answer, was published, or was not.
    pub fn published(&self, published: Published<'_>, outcome: Option<&OutcomeEvent>) {
        let Some(begun) = self.begun() else { return };
        let id = match (published.op, outcome) {
            (Op::Answer, Some(outcome)) => &outcome.id,
            _ => self.message.id(),
        };
        let destination = attributes::published_to(published.exchange, published.routing_key);
        let name = format!("publish {destination}");
        let attributes = attributes::of_publish(&published, destination, id, self.node);
        let moments = begun.moments(published.started, published.took);
        let (traces, parent) = (self.traces, &begun.context);
        traces.past(parent, SpanKind::Producer, name.into(), moments, attributes);
    }

    /// The work is over. A message that goes back without any was not worked on.
    pub fn end(&self, end: End<'_>) {
        let Some(begun) = self.begun() else { return };
        let span = begun.context.span();
        if let End::Settled(summary) = end {
            span.set_attribute(attributes::outcome(summary.outcome));
        }
        if let Some(error) = attributes::error_of(end) {
            span.set_attribute(KeyValue::new(attributes::ERROR_TYPE, error));
            span.set_status(Status::error(""));
        }
        span.end_with_timestamp(begun.start + begun.began.elapsed());
    }
}

impl fmt::Debug for Delivery<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Delivery")
    }
}

/// Whether an outcome is the failure of a delivery.
const fn has_failed(outcome: Outcome) -> bool {
    match outcome {
        Outcome::DeadLettered | Outcome::Delayed => true,
        Outcome::Returned | Outcome::Deleted | Outcome::Gone => false,
    }
}
