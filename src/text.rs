//! The one rule for text that people write, in values and in files.
//!
//! White space and a byte order mark around a text do not belong to it; a character inside that can't be seen is refused.
//! Broker, API and editors treat such characters differently: RabbitMQ takes line feeds out of a queue's name when it is
//! declared and not when it is consumed, and a byte order mark makes another key of the same letters.
use std::fmt::Write;
use std::io::Read;
use std::path::Path;

/// The largest file that is read, in bytes: configuration, key or certificates.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

const BYTE_ORDER_MARK: char = '\u{feff}';

/// The text without the white space and byte order marks around it.
#[must_use]
pub fn trimmed(text: &str) -> &str {
    text.trim_matches(|char: char| char.is_whitespace() || char == BYTE_ORDER_MARK)
}

/// The text, trimmed.
///
/// # Errors
/// It holds a control character or one that can't be seen. The error names that character and nothing else of the text.
pub fn clean(text: &str) -> Result<&str, String> {
    let text = trimmed(text);
    match text.chars().find(|&char| is_unseen(char)) {
        None => Ok(text),
        Some(char) => Err(format!("holds {} inside; remove it", name(char))),
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

/// Reads a text file, at most 1 MiB, without its byte order mark.
///
/// # Errors
/// It can't be read, is larger, or is not UTF-8; never what is in it. The text follows the file's name.
pub fn from_file(path: &Path) -> Result<String, String> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|err| format!("can't be read: {err}"))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err("can't be read: it is larger than 1 MiB".to_owned());
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text.trim_start_matches(BYTE_ORDER_MARK).to_owned()),
        Err(err) if matches!(err.as_bytes(), [0xff, 0xfe, ..] | [0xfe, 0xff, ..]) => {
            Err("can't be read: it is UTF-16; save it as UTF-8".to_owned())
        }
        Err(_) => Err("can't be read: it is not UTF-8; save it as UTF-8".to_owned()),
    }
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
            let problem = clean(text).unwrap_err();
            assert!(problem.contains(named), "{problem}");
        }
    }

    #[test]
    fn a_file_is_read_without_its_byte_order_mark_or_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let read = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            from_file(&path)
        };
        assert_eq!(read(b"\xef\xbb\xbfkey\n"), Ok("key\n".to_owned()));
        assert!(read(b"\xff\xfek\0e\0y\0").unwrap_err().contains("UTF-16"));
        assert!(read(b"k\xe9y").unwrap_err().contains("not UTF-8"));
        assert!(
            read(&vec![b'a'; 1024 * 1024 + 1])
                .unwrap_err()
                .contains("1 MiB")
        );
        assert!(
            from_file(dir.path())
                .unwrap_err()
                .starts_with("can't be read: ")
        );
    }
}
