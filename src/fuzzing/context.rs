//! The context of a trace, as a publisher has put it into the headers of its message.
use crate::traces::parent;

/// The first line of `data` is a `traceparent`, the rest a `tracestate`.
///
/// # Panics
/// A promise is broken: something was read that is not written there.
pub fn context(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let (traceparent, tracestate) = match text.split_once('\n') {
        Some((first, rest)) => (first, Some(rest)),
        None => (text, None),
    };
    let Some(context) = parent::read(traceparent, tracestate) else {
        return;
    };
    assert!(context.is_valid() && context.is_remote());
    let ids = format!("-{}-{}-", context.trace_id(), context.span_id());
    assert_eq!(traceparent.find(&ids), Some(2), "{traceparent}");
    let state = context.trace_state().header();
    assert!(state.len() <= tracestate.map_or(0, str::len), "{state}");
}
