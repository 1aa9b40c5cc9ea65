//! Signals: the first asks for a graceful stop, the second ends the process at once.
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Installs the handlers for SIGTERM and SIGINT. The returned token is cancelled by the first signal.
///
/// # Errors
/// The handlers can't be installed.
pub fn on_signals() -> std::io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    tokio::spawn(async move {
        let name = either(&mut terminate, &mut interrupt).await.0;
        tracing::info!(
            signal = name,
            "asked to stop; a second signal ends the process at once"
        );
        stopping.cancel();
        let (name, number) = either(&mut terminate, &mut interrupt).await;
        tracing::warn!(
            signal = name,
            "asked to stop again: ending at once, what is in hand comes back"
        );
        std::process::exit(128 + number);
    });
    Ok(stop)
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) -> (&'static str, i32) {
    tokio::select! {
        _ = terminate.recv() => ("SIGTERM", SignalKind::terminate().as_raw_value()),
        _ = interrupt.recv() => ("SIGINT", SignalKind::interrupt().as_raw_value()),
    }
}
