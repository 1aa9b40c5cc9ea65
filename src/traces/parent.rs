//! The context that a publisher has put into its message (W3C Trace Context): read strictly, because anybody may have written it.
use std::str::FromStr;

use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

/// Longest `tracestate` that is looked at, in bytes: what travels on with copies.
const STATE_BYTES_MAX: usize = 512;
/// `00-`, 32 digits, `-`, 16 digits, `-`, 2 digits.
const PARENT_BYTES: usize = 55;

/// The context that these headers name; nothing where `traceparent` is none. A `tracestate` that can't be read counts as absent.
pub(crate) fn read(traceparent: &str, tracestate: Option<&str>) -> Option<SpanContext> {
    let (known, more) = traceparent.split_at_checked(PARENT_BYTES)?;
    let parts: Vec<&str> = known.split('-').collect();
    let &[version, trace, span, flags] = &parts[..] else {
        return None;
    };
    // A later version may have more to say, behind another dash.
    let is_whole = match version {
        "ff" => false,
        "00" => more.is_empty(),
        _ => more.is_empty() || more.starts_with('-'),
    };
    let has_digits = |part: &str, count| {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        part.len() == count && part.bytes().all(is_digit)
    };
    let is_written_so = has_digits(version, 2)
        && has_digits(trace, 32)
        && has_digits(span, 16)
        && has_digits(flags, 2);
    if !is_whole || !is_written_so {
        return None;
    }
    let flags = u8::from_str_radix(flags, 16).ok()?;
    let state = tracestate.filter(|state| state.len() <= STATE_BYTES_MAX);
    let state = state.and_then(|state| TraceState::from_str(state).ok());
    let context = SpanContext::new(
        TraceId::from_hex(trace).ok()?,
        SpanId::from_hex(span).ok()?,
        TraceFlags::new(flags) & TraceFlags::SAMPLED,
        true,
        state.unwrap_or_default(),
    );
    context.is_valid().then_some(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const SPAN: &str = "b7ad6b7169203331";

    #[test]
    fn a_parent_is_read_strictly() {
        for (text, sampled) in [
            (format!("00-{TRACE}-{SPAN}-01"), Some(true)),
            (format!("00-{TRACE}-{SPAN}-00"), Some(false)),
            (format!("00-{TRACE}-{SPAN}-03"), Some(true)),
            (format!("00-{TRACE}-{SPAN}-02"), Some(false)),
            (format!("cc-{TRACE}-{SPAN}-01-more"), Some(true)),
            (format!("cc-{TRACE}-{SPAN}-01"), Some(true)),
            (format!("cc-{TRACE}-{SPAN}-01more"), None),
            (format!("00-{TRACE}-{SPAN}-01-more"), None),
            (format!("ff-{TRACE}-{SPAN}-01"), None),
            (format!("00-{}-{SPAN}-01", TRACE.to_uppercase()), None),
            (format!("00-{}-{SPAN}-01", "0".repeat(32)), None),
            (format!("00-{TRACE}-{}-01", "0".repeat(16)), None),
            (format!("00-+{}-{SPAN}-01", &TRACE[1..]), None),
            (format!("00-{TRACE}0-{}-01", &SPAN[1..]), None),
            (format!(" 00-{TRACE}-{SPAN}-01"), None),
            (format!("00-{TRACE}-{SPAN}"), None),
            (format!("00-{}é-{SPAN}-01", &TRACE[2..]), None),
            ("é".repeat(40), None),
            (String::new(), None),
        ] {
            let found = read(&text, None);
            let flag = found.as_ref().map(SpanContext::is_sampled);
            assert_eq!(flag, sampled, "{text}");
            if let Some(context) = found {
                assert_eq!(context.trace_id().to_string(), TRACE);
                assert_eq!(context.span_id().to_string(), SPAN);
                assert!(context.is_remote());
            }
        }
    }

    #[test]
    fn a_state_that_cant_be_read_counts_as_absent() {
        let long = format!("a={}", "b".repeat(STATE_BYTES_MAX));
        for (state, kept) in [
            ("vendor=1,other=2", "vendor=1,other=2"),
            ("no state", ""),
            (&long, ""),
            ("", ""),
        ] {
            let context = read(&format!("00-{TRACE}-{SPAN}-01"), Some(state)).unwrap();
            assert_eq!(context.trace_state().header(), kept, "{state}");
        }
    }
}
