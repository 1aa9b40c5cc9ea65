//! What passes the filter, and what becomes of the rest.
use lapin::protocol::basic::{AMQPProperties, parse_properties};
use lapin::protocol::{AMQPClass, connection, parse_class};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use proptest::collection::vec;
use proptest::prelude::*;

use super::header::{DEPTH_MAX, VALUES_MAX};
use super::{FRAME_BYTES_MAX, FRAME_BYTES_MIN, Filter, HEADERS_DROPPED, WireError};

const MARK: &str = "mark-0123456789";
const BODY_BYTES: u64 = 5;

fn long(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap();
    [&length.to_be_bytes()[..], bytes].concat()
}

fn short(bytes: &[u8]) -> Vec<u8> {
    [&[u8::try_from(bytes.len()).unwrap()][..], bytes].concat()
}

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    [&[kind, 0, 1][..], &long(payload), &[0xCE]].concat()
}

fn method(class: u16, number: u16, arguments: &[u8]) -> Vec<u8> {
    let payload = [&class.to_be_bytes()[..], &number.to_be_bytes(), arguments].concat();
    frame(1, &payload)
}

fn tune(frame_max: u32) -> Vec<u8> {
    method(
        10,
        30,
        &[&[0, 0][..], &frame_max.to_be_bytes(), &[0, 10]].concat(),
    )
}

/// The payload of a content header.
fn header(flags: u16, properties: &[u8]) -> Vec<u8> {
    let fixed = [
        &[0, 60, 0, 0][..],
        &BODY_BYTES.to_be_bytes(),
        &flags.to_be_bytes(),
    ];
    [&fixed.concat()[..], properties].concat()
}

/// With these headers, a delivery mode, a correlation id and a message id.
fn with_headers(fields: &[u8]) -> Vec<u8> {
    let properties = [&long(fields)[..], &[2], &short(b"corr"), &short(b"id-1")];
    header(0x2000 | 0x1000 | 0x0400 | 0x0080, &properties.concat())
}

fn field(name: &[u8], value: &[u8]) -> Vec<u8> {
    [&short(name)[..], value].concat()
}

fn text(name: &str, text: &str) -> Vec<u8> {
    field(
        name.as_bytes(),
        &[b"S", &long(text.as_bytes())[..]].concat(),
    )
}

/// So many arrays (`A`) or tables (`F`) in each other, as a value.
fn nested(kind: u8, levels: usize) -> Vec<u8> {
    let mut value = vec![kind, 0, 0, 0, 0];
    for _ in 1..levels {
        let inside = if kind == b'F' {
            [&[0][..], &value].concat()
        } else {
            value
        };
        value = [&[kind][..], &long(&inside)].concat();
    }
    value
}

fn passed(input: &[u8]) -> Result<Vec<u8>, WireError> {
    let mut out = Vec::new();
    Filter::new(MARK, FRAME_BYTES_MAX).feed(input, &mut out)?;
    Ok(out)
}

/// The properties in the one content header frame, as lapin reads them.
fn properties(out: &[u8]) -> AMQPProperties {
    assert_eq!(&out[..3], &[2, 0, 1]);
    assert_eq!(
        out[3..7],
        u32::try_from(out.len() - 8).unwrap().to_be_bytes()
    );
    assert_eq!(
        out[7..19],
        [&[0, 60, 0, 0][..], &BODY_BYTES.to_be_bytes()].concat()
    );
    assert_eq!(out.last(), Some(&0xCE));
    let (rest, properties) = parse_properties(&out[19..out.len() - 1]).expect("lapin parses it");
    assert_eq!(rest, b"");
    properties
}

fn names(headers: &FieldTable) -> Vec<&str> {
    headers.inner().keys().map(ShortString::as_str).collect()
}

/// What a content header becomes: the reason in its mark, and what is left of the properties.
fn judged(payload: &[u8]) -> (Option<String>, AMQPProperties) {
    let properties = properties(&passed(&frame(2, payload)).unwrap());
    let reason = properties
        .headers()
        .as_ref()
        .and_then(|headers| headers.inner().get(MARK));
    let reason = reason.map(|reason| match reason {
        AMQPValue::LongString(text) => text.to_string(),
        other => panic!("{other:?}"),
    });
    (reason, properties)
}

#[test]
fn what_lapin_can_parse_passes_as_it_came() {
    let deliver = [
        &short(b"ctag")[..],
        &[0; 9],
        &short(b"convgroup"),
        &short(b"delete"),
    ];
    for whole in [
        method(60, 60, &deliver.concat()),
        method(60, 80, &[0; 9]),
        frame(2, &with_headers(&text("traceparent", "00-1"))),
        frame(2, &with_headers(b"")),
        frame(2, &header(0, b"")),
        frame(
            2,
            &with_headers(&field("näme".as_bytes(), &nested(b'F', DEPTH_MAX - 1))),
        ),
        frame(2, &with_headers(&b"\x00V".repeat(VALUES_MAX))),
        frame(3, &[7; 9000]),
        frame(3, &vec![7; FRAME_BYTES_MAX as usize - 8]),
        vec![8, 0, 0, 0, 0, 0, 0, 0xCE],
    ] {
        assert_eq!(passed(&whole).as_deref(), Ok(&whole[..]));
    }
}

#[test]
fn what_lapin_can_not_parse_says_why_and_keeps_the_rest() {
    let bad_name = [
        text("convgroup-code", "51011"),
        field(b"\xff\xfe", b"V"),
        text("a", "b"),
    ];
    let bad_type = [
        text("convgroup-code", "51011"),
        field(b"x", b"Z"),
        text("a", "b"),
    ];
    let bad_inside = [
        text("traceparent", "00-1"),
        field(b"deep", &[b"F", &long(&field(b"\xc3", b"V"))[..]].concat()),
        text("convgroup-code", "51011"),
    ];
    for (fields, reason, left) in [
        (
            bad_name.concat(),
            "a header name is not UTF-8",
            vec!["convgroup-code"],
        ),
        (
            bad_type.concat(),
            "a header value has the unknown type 0x5a",
            vec!["convgroup-code"],
        ),
        (
            bad_inside.concat(),
            "a header name is not UTF-8",
            vec!["convgroup-code", "traceparent"],
        ),
        (
            field(b"cut", b"S\x00\x00\xff\xff"),
            "a header is longer than what holds it",
            vec![],
        ),
    ] {
        let (found, properties) = judged(&with_headers(&fields));
        assert_eq!(found.as_deref(), Some(reason));
        let headers = properties.headers().as_ref().unwrap();
        let mut wanted = left.clone();
        wanted.extend([HEADERS_DROPPED, MARK]);
        wanted.sort_unstable();
        assert_eq!(names(headers), wanted);
        assert_eq!(properties.message_id().as_ref().unwrap().as_str(), "id-1");
        assert_eq!(
            properties.correlation_id().as_ref().unwrap().as_str(),
            "corr"
        );
        assert_eq!(*properties.delivery_mode(), Some(2));
    }
}

#[test]
fn a_property_that_is_not_utf8_is_left_out_alone() {
    let others = [
        &short(b"text/\xff")[..],
        &long(&text("a", "b")),
        &short(b"\xff"),
        &[0; 8],
    ];
    let (reason, properties) = judged(&header(0x8000 | 0x2000 | 0x0080 | 0x0040, &others.concat()));
    assert_eq!(
        reason.as_deref(),
        Some("the property content_type is not UTF-8")
    );
    assert_eq!(
        (properties.content_type(), properties.message_id()),
        (&None, &None)
    );
    assert_eq!(*properties.timestamp(), Some(0));
    assert_eq!(names(properties.headers().as_ref().unwrap()), ["a", MARK]);
    for (flags, bytes, reason) in [
        (0x0080, &b"\x05ab"[..], "its properties end too early"),
        (0x0040, b"\0\0\0", "its properties end too early"),
        (0x2000, b"\0\0\0\x09\x01aV", "its properties end too early"),
        (0x1000, b"\x02\x02", "bytes follow its last property"),
    ] {
        assert_eq!(judged(&header(flags, bytes)).0.as_deref(), Some(reason));
    }
    // Not even the flags.
    let (reason, _) = judged(&header(0, b"")[..12]);
    assert_eq!(reason.as_deref(), Some("its properties end too early"));
}

#[test]
fn headers_that_are_too_deep_or_too_many_are_dropped_and_the_message_is_not() {
    let death = field(
        b"x-death",
        &[
            b"A",
            &long(&[b"F", &long(&text("reason", "expired"))[..]].concat())[..],
        ]
        .concat(),
    );
    let kept = [
        text("traceparent", "00-1"),
        text("convgroup-code", "51011"),
        death,
    ]
    .concat();
    for harmful in [
        field(b"deep", &nested(b'A', DEPTH_MAX)),
        field(b"deep", &nested(b'F', 20_000)),
        field(b"many", &[b"A", &long(&vec![b'V'; 100_000])[..]].concat()),
        b"\x00V".repeat(VALUES_MAX),
    ] {
        let (reason, properties) = judged(&with_headers(&[&kept[..], &harmful].concat()));
        assert_eq!(reason, None);
        let headers = properties.headers().as_ref().unwrap();
        assert_eq!(
            names(headers),
            ["convgroup-code", HEADERS_DROPPED, "traceparent", "x-death"]
        );
        assert_eq!(headers.inner()[HEADERS_DROPPED], AMQPValue::Boolean(true));
        assert_eq!(properties.message_id().as_ref().unwrap().as_str(), "id-1");
    }
}

#[test]
fn headers_that_are_no_small_texts_or_numbers_are_not_rescued() {
    let deep = field(b"deep", &nested(b'A', DEPTH_MAX));
    for field in [
        text("convgroup-info", &"x".repeat(600)),
        field(b"convgroup-index", &nested(b'A', 2)),
        field(b"traceparent", b"t\x01"),
        field(b"x-death", &nested(b'A', 20)),
        text("x-death", &"x".repeat(5000)),
        text("foreign", "x"),
    ] {
        let (_, properties) = judged(&with_headers(&[field, deep.clone()].concat()));
        assert_eq!(
            names(properties.headers().as_ref().unwrap()),
            [HEADERS_DROPPED]
        );
    }
}

#[test]
fn headers_larger_than_the_agreed_frame_are_dropped() {
    let fields = [
        text("convgroup-code", "51011"),
        text("foreign", &"x".repeat(4100)),
    ]
    .concat();
    let mut out = Vec::new();
    let mut filter = Filter::new(MARK, FRAME_BYTES_MIN);
    filter.feed(&tune(FRAME_BYTES_MIN), &mut out).unwrap();
    assert_eq!(filter.must_ask(), None);
    out.clear();
    filter
        .feed(&frame(2, &with_headers(&fields)), &mut out)
        .unwrap();
    assert!(out.len() <= FRAME_BYTES_MIN as usize);
    let headers = properties(&out).headers().clone().unwrap();
    assert_eq!(names(&headers), ["convgroup-code", HEADERS_DROPPED]);
    // The largest properties there can be, and ours: still a frame.
    out.clear();
    let texts = short(&[b'x'; 255]);
    let many: Vec<u8> = (0..30)
        .flat_map(|n| text(&format!("convgroup-{n}"), &"x".repeat(100)))
        .collect();
    let most = [
        texts.repeat(2),
        long(&many),
        vec![2, 0],
        texts.repeat(4),
        vec![0; 8],
        texts.repeat(4),
    ];
    filter
        .feed(&frame(2, &header(0xFFFC, &most.concat())), &mut out)
        .unwrap();
    assert!(out.len() <= FRAME_BYTES_MIN as usize, "{}", out.len());
    assert!(properties(&out).cluster_id().is_some());
}

/// lapin does not agree to less than 8 KiB unless that is what it asked for.
#[test]
fn a_broker_of_small_frames_has_to_be_asked_for_them() {
    for (asked, offered, must_ask) in [
        (FRAME_BYTES_MAX, 0, None),
        (FRAME_BYTES_MAX, u32::MAX, None),
        (FRAME_BYTES_MAX, 8192, None),
        (FRAME_BYTES_MAX, 8191, Some(8191)),
        (FRAME_BYTES_MAX, 1, Some(4096)),
        (8191, 8191, None),
        (4096, 8191, None),
        (4096, 1, None),
    ] {
        let (mut filter, mut out) = (Filter::new(MARK, asked), Vec::new());
        filter.feed(&tune(offered), &mut out).unwrap();
        assert_eq!(filter.must_ask(), must_ask, "{asked} {offered}");
        let (_, method) = parse_class(&out[7..out.len() - 1]).expect("lapin parses it");
        let closed = matches!(
            method,
            AMQPClass::Connection(connection::AMQPMethod::Close(_))
        );
        assert_eq!(closed, must_ask.is_some());
    }
}

#[test]
fn a_header_larger_than_any_frame_is_marked_and_keeps_its_properties() {
    for bytes in [
        FRAME_BYTES_MAX as usize - 40,
        FRAME_BYTES_MAX as usize,
        3_000_000,
    ] {
        let fields = [
            text("convgroup-code", "51011"),
            text("foreign", &"x".repeat(bytes)),
        ]
        .concat();
        let payload = with_headers(&fields);
        let whole = frame(2, &payload);
        for piece in [1000, 65_536, whole.len()] {
            let (mut filter, mut out) = (Filter::new(MARK, FRAME_BYTES_MAX), Vec::new());
            for piece in whole.chunks(piece) {
                filter.feed(piece, &mut out).unwrap();
                assert!(filter.held_bytes() < 3 * FRAME_BYTES_MAX as usize);
            }
            let properties = properties(&out);
            let headers = properties.headers().as_ref().unwrap();
            let marked = payload.len() > FRAME_BYTES_MAX as usize;
            assert_eq!(headers.inner().contains_key(MARK), marked, "{bytes}");
            assert!(headers.inner().contains_key("convgroup-code"));
            assert_eq!(properties.message_id().as_ref().unwrap().as_str(), "id-1");
        }
    }
}

#[test]
fn texts_in_methods_that_are_not_utf8_are_mended() {
    let reason = [
        &b"\x02\x00"[..],
        &short("no queue 'ä".as_bytes().split_last().unwrap().1),
        &[0, 50, 0, 10],
    ];
    let routed = [
        &short(b"ctag")[..],
        &[0; 9],
        &short(b"ex\xff"),
        &short(b"\xc3\x28k\xe2\x82"),
    ];
    let returned = [
        &b"\x01\x38"[..],
        &short(b"NO_ROUTE"),
        &short(b"\xff"),
        &short(b"ok"),
    ];
    let start = [
        &[0, 9][..],
        &long(&field(b"deep", &nested(b'F', 5000))),
        &long(b"PLAIN"),
        &long(b"en_US"),
    ];
    for (class, number, arguments) in [
        (20, 40, reason.concat()),
        (10, 50, reason.concat()),
        (60, 60, routed.concat()),
        (60, 50, returned.concat()),
        (60, 30, [&short(b"tag\xff")[..], &[0]].concat()),
        (10, 60, short(b"low on \xf0\x9f")),
        (10, 10, start.concat()),
    ] {
        let out = passed(&method(class, number, &arguments)).unwrap();
        let (rest, _) = parse_class(&out[7..out.len() - 1]).expect("lapin parses it");
        assert_eq!(rest, b"", "{class}.{number}");
    }
    let out = passed(&method(60, 60, &routed.concat())).unwrap();
    let mended = [
        &short(b"ctag")[..],
        &[0; 9],
        &short(b"ex?"),
        &short(b"?(k??"),
    ];
    assert_eq!(out, method(60, 60, &mended.concat()));
}

#[test]
fn what_no_broker_sends_is_an_error_that_names_it() {
    let large = |kind: u8, size: u32| [&[kind, 0, 1][..], &size.to_be_bytes()].concat();
    let declare = [
        &[0, 0][..],
        &short(b"q"),
        &[0],
        &long(&field(b"deep", &nested(b'F', 100))),
    ];
    for (bytes, error) in [
        (
            large(3, 131_065),
            WireError::TooLarge {
                kind: "body",
                bytes: 131_073,
                max: 131_072,
            },
        ),
        (
            large(1, u32::MAX),
            WireError::TooLarge {
                kind: "method",
                bytes: 4_294_967_303,
                max: 131_072,
            },
        ),
        (large(b'H', 0), WireError::Kind(b'H')),
        (vec![3, 0, 1, 0, 0, 0, 1, 7, 8], WireError::End("body")),
        (
            vec![2, 0, 1, 0, 0, 0, 1, 7, 8],
            WireError::End("content header"),
        ),
        (frame(2, &[0; 11]), WireError::Header(11)),
        (method(60, 60, &[200]), WireError::Method(60, 60)),
        (method(60, 31, b"\x01a-"), WireError::Method(60, 31)),
        // A client's method: it has room for tables.
        (method(50, 10, &declare.concat()), WireError::Method(50, 10)),
        (frame(1, b"\0"), WireError::Method(0, 0)),
    ] {
        assert_eq!(passed(&bytes), Err(error.clone()), "{error}");
    }
    let (mut filter, mut out) = (Filter::new(MARK, FRAME_BYTES_MAX), Vec::new());
    let both = [frame(3, b"good"), large(9, 0)].concat();
    assert_eq!(filter.feed(&both, &mut out), Err(WireError::Kind(9)));
    assert_eq!(out, frame(3, b"good"));
    assert_eq!(
        filter.feed(&frame(3, b"after"), &mut out),
        Err(WireError::Kind(9))
    );
}

/// A session as a broker would send it, with all that is replaced.
fn session() -> Vec<u8> {
    let deliver = [
        &short(b"ctag")[..],
        &[0; 9],
        &short(b"\xff"),
        &short(b"delete"),
    ]
    .concat();
    [
        tune(8192),
        method(60, 60, &deliver),
        frame(2, &with_headers(&text("a", "b"))),
        frame(3, b"hello"),
        method(60, 60, &deliver),
        frame(2, &with_headers(&field(b"\xff", b"V"))),
        frame(3, b"hel"),
        frame(3, b"lo"),
        frame(2, &with_headers(&field(b"deep", &nested(b'A', 70)))),
        vec![8, 0, 0, 0, 0, 0, 0, 0xCE],
    ]
    .concat()
}

#[test]
fn however_the_bytes_are_cut_the_same_comes_out() {
    let session = session();
    let whole = passed(&session).unwrap();
    let fed = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let (mut filter, mut out) = (Filter::new(MARK, FRAME_BYTES_MAX), Vec::new());
        for piece in pieces {
            filter.feed(piece, &mut out).unwrap();
        }
        out
    };
    for length in 1..20 {
        assert_eq!(
            fed(&mut session.chunks(length)),
            whole,
            "pieces of {length}"
        );
    }
    for at in 0..session.len() {
        let (first, second) = session.split_at(at);
        assert_eq!(fed(&mut [first, second].into_iter()), whole, "cut at {at}");
    }
}

#[test]
fn the_deepest_headers_that_pass_need_no_deep_stack() {
    const STACK_BYTES: usize = 1024 * 1024;
    for kind in [b'A', b'F'] {
        let payload = with_headers(&field(b"deep", &nested(kind, DEPTH_MAX - 1)));
        let whole = frame(2, &payload);
        assert_eq!(passed(&whole).as_deref(), Ok(&whole[..]));
        let parsed = std::thread::Builder::new()
            .stack_size(STACK_BYTES)
            .spawn(move || drop(properties(&whole)))
            .unwrap();
        parsed.join().unwrap();
    }
}

/// Properties as somebody might write them, some bytes changed.
fn arbitrary_header() -> impl Strategy<Value = Vec<u8>> {
    let scalar = prop_oneof![
        Just(b"V".to_vec()),
        any::<[u8; 1]>().prop_map(|bytes| [&b"t"[..], &bytes].concat()),
        any::<[u8; 4]>().prop_map(|bytes| [&b"I"[..], &bytes].concat()),
        any::<[u8; 8]>().prop_map(|bytes| [&b"l"[..], &bytes].concat()),
        any::<[u8; 5]>().prop_map(|bytes| [&b"D"[..], &bytes].concat()),
        vec(any::<u8>(), 0..9).prop_map(|bytes| [&b"S"[..], &long(&bytes)].concat()),
        vec(any::<u8>(), 0..9).prop_map(|bytes| [&b"x"[..], &long(&bytes)].concat()),
    ];
    let value = scalar.prop_recursive(4, 20, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(|all| [&b"A"[..], &long(&all.concat())].concat()),
            vec(("[a-c]{0,2}", inner), 0..4).prop_map(|all| {
                let fields: Vec<u8> = all
                    .iter()
                    .flat_map(|(name, value)| field(name.as_bytes(), value))
                    .collect();
                [&b"F"[..], &long(&fields)].concat()
            }),
        ]
    });
    let fields = vec(("[a-c]{0,2}", value), 0..4);
    let changes = vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    let texts = vec("[a-z]{0,3}", 10);
    (any::<u16>(), fields, texts, changes, 0..3_usize).prop_map(
        |(flags, fields, texts, changes, cut)| {
            let fields: Vec<u8> = fields
                .iter()
                .flat_map(|(name, value)| field(name.as_bytes(), value))
                .collect();
            let mut texts = texts.iter().map(|text| short(text.as_bytes()));
            let mut bytes = Vec::new();
            for place in 0..14 {
                if flags & (0x8000 >> place) != 0 {
                    bytes.extend(match place {
                        2 => long(&fields),
                        3 | 4 => vec![1],
                        9 => vec![0; 8],
                        _ => texts.next().unwrap_or_else(|| short(b"")),
                    });
                }
            }
            let mut payload = header(flags, &bytes);
            for (at, byte) in changes {
                let at = 12 + at.index(payload.len() - 12);
                payload[at] = byte;
            }
            payload.truncate(payload.len() - cut.min(payload.len() - 12));
            payload
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 4000, ..ProptestConfig::default() })]

    /// The walk and lapin's parser agree on every header, and what takes the place of one can be parsed.
    #[test]
    fn passes_what_lapin_parses_and_nothing_else(payload in arbitrary_header()) {
        let parses = parse_properties(&payload[12..]).is_ok_and(|(rest, _)| rest.is_empty());
        let whole = frame(2, &payload);
        let out = passed(&whole).unwrap();
        prop_assert_eq!(out == whole, parses, "{:?}", payload.escape_ascii().to_string());
        let (reason, _) = judged(&payload);
        prop_assert_eq!(reason.is_none(), parses);
    }

    /// Bytes of anybody: no panic, nothing larger than what came in and a mark, and memory stays bounded.
    #[test]
    fn survives_arbitrary_bytes(bytes in vec(any::<u8>(), 0..300), begin in 0..4_u8) {
        let bytes = [&[begin, 0, 1, 0, 0][..], &bytes].concat();
        let (mut filter, mut out) = (Filter::new(MARK, FRAME_BYTES_MAX), Vec::new());
        let _ = filter.feed(&bytes, &mut out);
        prop_assert!(out.len() <= bytes.len() + 200);
    }
}
