//! `run`: the daemon.
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, anyhow};

use crate::admin::{Admin, Bounds, Identity};
use crate::config::Settings;
use crate::daemon::{Daemon, Ended};
use crate::metrics::Metrics;
use crate::status::Status;
use crate::tool::{Exit, Failure};
use crate::traces::Traces;
use crate::{shutdown, telemetry};
use convgroup_host::limits::Limit;

/// What it means that the address of the HTTP side can't be had.
fn unbound(listen: SocketAddr, err: io::Error) -> anyhow::Error {
    // Descriptors that are used up are no reason to look for another instance.
    let what_to_do = match err.raw_os_error().and_then(Limit::of_code) {
        Some(_) => "",
        None => "; is another instance running? choose another address or stop it",
    };
    anyhow!(err).context(format!("http.listen = {listen} can't be bound{what_to_do}"))
}

pub(super) async fn run(settings: &Settings) -> Result<Exit, Failure> {
    let config = settings.config()?;
    let metrics = Arc::new(Metrics::new(&config.codes));
    let dropped = metrics.log_lines_dropped_total.clone();
    telemetry::start(config.log, dropped)
        .context("the thread that writes the log can't be started")?;
    let stop = shutdown::on_signals().context("the signal handlers can't be installed")?;
    let listen = config.http_listen;
    let listener = Admin::bind(listen)
        .await
        .map_err(|err| unbound(listen, err))?;
    // The port that was bound, where the configuration has 0.
    let listen = listener.local_addr()?;
    for (key, value, source) in settings.resolved() {
        tracing::debug!(key, value, source = %source, "configured");
    }
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        http.listen = %listen,
        amqp.queue = config.amqp.topology.main.name,
        im.endpoint = config.im.endpoint.as_str(),
        rate_limit.calls_per_second = config.calls_per_second,
        "starting"
    );
    let queue = &config.amqp.topology.main.name;
    let traces = Traces::from_env(queue, &config.im.endpoint, &metrics.spans_total);
    let traces = traces.map_err(|error| Failure::new(Exit::Config, error))?;
    let traces = traces.map(Arc::new);
    let answers = config.amqp.topology.outcomes.as_ref();
    let status = Arc::new(Status::new(Arc::clone(&metrics), answers.is_some()));
    let bounds = Bounds {
        prefetch: config.amqp.prefetch,
        calls_per_second: config.calls_per_second,
    };
    let identity = Identity {
        queue: config.amqp.topology.main.name.clone(),
        api: config.im.endpoint.authority().to_owned(),
        sdk_app_id: config.im.sdk_app_id,
        nodes: config.amqp.nodes.iter().map(ToString::to_string).collect(),
        answers: answers.map_or_else(|| "not given".to_owned(), ToString::to_string),
        listen,
    };
    let admin = Admin::new(
        Arc::clone(&metrics),
        Arc::clone(&status),
        &config.codes,
        bounds,
        identity,
    );
    let daemon = Daemon::new(config, metrics, status, traces.clone())
        .map_err(|error| Failure::new(Exit::Config, error))?;
    let admin = tokio::spawn(admin.serve(listener));
    let ended = Box::pin(daemon.run(stop)).await;
    if let Some(traces) = traces {
        traces.stop();
    }
    admin.abort();
    match ended {
        Ended::Clean => {
            tracing::info!("stopped; everything begun was finished");
            Ok(Exit::Done)
        }
        Ended::GraceOver => {
            tracing::warn!(
                "stopped with calls in flight: shutdown_grace is over; their messages come back"
            );
            Ok(Exit::Other)
        }
    }
}
