//! Files that people write: configuration, keys.
use std::io::Read;
use std::path::Path;

use convgroup_domain::text::{self, BYTE_ORDER_MARK, is_pem, is_url};

/// The largest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Reads a text file, at most 1 MiB, without its byte order mark.
///
/// # Errors
/// It can't be read, is larger, or is not UTF-8; never what is in it. The text follows the file's name.
pub fn text_of(path: &Path) -> Result<String, String> {
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

/// Whether what was given as a path looks like no path and leads to no file: it may be a secret, put in the place of its file.
#[must_use]
pub fn is_no_path(path: &Path) -> bool {
    let text = path.to_string_lossy();
    is_url(&text)
        || is_pem(&text)
        || text::clean(&text).is_err()
        || (!text.is_empty() && !text.contains('/') && !path.exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_without_its_byte_order_mark_or_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let read = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            text_of(&path)
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
            text_of(dir.path())
                .unwrap_err()
                .starts_with("can't be read: ")
        );
    }
}
