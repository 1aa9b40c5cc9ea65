//! Moments as text: RFC 3339 in, RFC 3339 out, unix milliseconds inside.
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The last moment that can be written: the end of the year 9999, unix ms.
const LAST_MS: i64 = 253_402_300_799_999;

/// Reads a moment strictly as RFC 3339 says: date, `T`, time with seconds, an offset or `Z`, in upper or lower case; fractions of a
/// second are cut to milliseconds. A space for the `T` and a leap second are refused. Unix ms; before 1970 it is negative.
#[must_use]
pub fn parse(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let separated = matches!(bytes.get(10), Some(b'T' | b't'));
    let leaps = bytes.get(17..19) == Some(b"60");
    if !separated || leaps {
        return None;
    }
    let moment = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    i64::try_from(moment.unix_timestamp_nanos().div_euclid(1_000_000)).ok()
}

/// A moment in UTC with milliseconds: `2026-11-25T18:20:11.120Z`. One beyond the years 1970 to 9999 is written as the nearest in
/// them.
#[must_use]
pub fn format_ms(unix_ms: i64) -> String {
    let at = utc(unix_ms);
    format!("{}.{:03}Z", date_and_time(at), at.millisecond())
}

/// A moment in UTC with whole seconds: `2026-11-25T18:20:10Z`. The bounds are those of [`format_ms`].
#[must_use]
pub fn format_s(unix_ms: i64) -> String {
    format!("{}Z", date_and_time(utc(unix_ms)))
}

fn utc(unix_ms: i64) -> OffsetDateTime {
    let nanos = i128::from(unix_ms.clamp(0, LAST_MS)) * 1_000_000;
    OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

fn date_and_time(at: OffsetDateTime) -> String {
    let (date, time) = (at.date(), at.time());
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}",
        date.year(),
        u8::from(date.month()),
        date.day(),
        time.hour(),
        time.minute(),
        time.second()
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_rfc_3339_is_a_moment() {
        for (text, expect) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2026-12-01t00:00:00z", Some(1_796_083_200_000)),
            ("2026-12-01T01:00:00+01:00", Some(1_796_083_200_000)),
            ("2026-11-30T19:30:00-04:30", Some(1_796_083_200_000)),
            ("2026-12-01T00:00:00.0019Z", Some(1_796_083_200_001)),
            ("1969-12-31T23:59:59.9999Z", Some(-1)),
            ("2026-12-01T00:00:00", None),
            ("2026-12-01 00:00:00Z", None),
            ("2026-12-01_00:00:00Z", None),
            ("2026-12-31T23:59:60Z", None),
            ("2026-06-30t23:59:60.5+00:00", None),
            ("2026-02-30T00:00:00Z", None),
            ("2026-12-01T24:00:00Z", None),
            ("2026-12-01T00:00Z", None),
            ("2026-12-01T00:00:00.Z", None),
            ("2026-12-01T00:00:00+0100", None),
            ("2026-12-01T00:00:00+01", None),
            ("2026-12-01T00:00:00Z ", None),
            (" 2026-12-01T00:00:00Z", None),
            ("+2026-12-01T00:00:00Z", None),
            ("2026-12-01", None),
            ("1796083200", None),
            ("", None),
            ("2026-12-01T00:00:00Z[Europe/Berlin]", None),
            ("２０２６-12-01T00:00:00Z", None),
        ] {
            assert_eq!(parse(text), expect, "{text}");
        }
    }

    #[test]
    fn moments_are_written_in_utc() {
        assert_eq!(format_ms(1_796_083_200_120), "2026-12-01T00:00:00.120Z");
        assert_eq!(format_s(1_796_083_200_999), "2026-12-01T00:00:00Z");
        assert_eq!(format_ms(-1), "1970-01-01T00:00:00.000Z");
        assert_eq!(format_s(i64::MAX), "9999-12-31T23:59:59Z");
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(ms in 0..=LAST_MS) {
            prop_assert_eq!(parse(&format_ms(ms)), Some(ms));
        }

        #[test]
        fn anything_may_be_asked(text in ".{0,40}") {
            let _ = parse(&text);
        }
    }
}
