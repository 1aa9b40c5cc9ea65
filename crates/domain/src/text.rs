//! The one rule for text that people write, in values and in files.
//!
//! White space and a byte order mark around a text do not belong to it; a character inside that can't be seen is refused.
//! Broker, API and editors treat such characters differently: RabbitMQ takes line feeds out of a queue's name when it is
//! declared and not when it is consumed, and a byte order mark makes another key of the same letters.
use std::fmt::Write;

use thiserror::Error;

/// What some editors and libraries write before a text in UTF-8.
pub const BYTE_ORDER_MARK: char = '\u{feff}';

/// The text without the white space and byte order marks around it.
#[must_use]
pub fn trimmed(text: &str) -> &str {
    text.trim_matches(|char: char| char.is_whitespace() || char == BYTE_ORDER_MARK)
}

/// A text holds a character inside that can't be seen. It is named, and nothing else of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("holds {} inside; remove it", name(*.0))]
pub struct Unseen(pub char);

/// The text, trimmed.
///
/// # Errors
/// It holds a control character or one that can't be seen.
pub fn clean(text: &str) -> Result<&str, Unseen> {
    let text = trimmed(text);
    match text.chars().find(|&char| is_unseen(char)) {
        None => Ok(text),
        Some(char) => Err(Unseen(char)),
    }
}

/// Control characters, and those of the Unicode category "format" that turn up in pasted text.
#[must_use]
pub fn is_unseen(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{ad}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | BYTE_ORDER_MARK | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// A character that can't be seen, in words.
#[must_use]
pub fn name(char: char) -> String {
    match char {
        '\n' => "a line feed".to_owned(),
        '\r' => "a carriage return".to_owned(),
        '\t' => "a tab".to_owned(),
        BYTE_ORDER_MARK => "a byte order mark".to_owned(),
        char => format!("the invisible character U+{:04X}", u32::from(char)),
    }
}

/// Bytes as hexadecimal digits, in lower case.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// What others have written, as text that does nothing to a terminal: control characters are escaped.
#[must_use]
pub fn readable(foreign: &str) -> String {
    let mut text = String::new();
    for char in foreign.chars() {
        if char.is_control() {
            text.extend(char.escape_debug());
        } else {
            text.push(char);
        }
    }
    text
}

/// Whether a text is PEM itself, put in the place of the path of its file.
#[must_use]
pub fn is_pem(text: &str) -> bool {
    text.contains("-----BEGIN ")
}

/// Whether a text is an address, which may hold a password and stands in the wrong place.
#[must_use]
pub fn is_url(text: &str) -> bool {
    text.contains("://")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_is_shown_as_it_is_but_for_what_a_terminal_obeys() {
        assert_eq!(readable("{\"a\":1}"), "{\"a\":1}");
        assert_eq!(readable("\x1b[2J\nb\u{9b}"), "\\u{1b}[2J\\nb\\u{9b}");
    }

    #[test]
    fn what_surrounds_a_text_does_not_belong_to_it() {
        for text in [
            "key",
            " key",
            "key\n",
            "\u{feff}key\r\n",
            "\n\u{feff} key\u{a0}\t",
        ] {
            assert_eq!(clean(text), Ok("key"), "{text:?}");
        }
        assert_eq!(clean("chat delete"), Ok("chat delete"));
        assert_eq!(clean("\u{feff} \n"), Ok(""));
    }

    #[test]
    fn what_stands_in_the_place_of_a_path_is_known() {
        let key = "-----BEGIN PRIVATE KEY-----";
        for (text, pem, url) in [
            ("/etc/key.pem", false, false),
            (key, true, false),
            ("amqp://guest@host", false, true),
        ] {
            assert_eq!((is_pem(text), is_url(text)), (pem, url), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_seen_inside_is_refused_by_name() {
        for (text, named) in [
            ("a\nb", "a line feed"),
            ("a\r\nb", "a carriage return"),
            ("a\tb", "a tab"),
            ("a\u{feff}b", "a byte order mark"),
            ("a\0", "U+0000"),
            ("a\u{7f}b", "U+007F"),
            ("a\u{200b}", "U+200B"),
            ("\u{202e}ab", "U+202E"),
        ] {
            let problem = clean(text).unwrap_err().to_string();
            assert!(problem.contains(named), "{problem}");
        }
    }
}
