//! Files that people write: configuration, keys.
use std::io::Read;
use std::path::Path;

use thiserror::Error;

use convgroup_domain::text::{self, BYTE_ORDER_MARK, is_pem, is_url};

/// The largest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Why a file can't be read as text. The words follow the file's name; they never hold what is in it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FileError {
    /// The system does not let it be read: why, in its words.
    #[error("can't be read: {0}")]
    Unreadable(String),
    /// It is larger than 1 MiB.
    #[error("can't be read: it is larger than 1 MiB")]
    TooLarge,
    /// It is text in UTF-16.
    #[error("can't be read: it is UTF-16; save it as UTF-8")]
    Utf16,
    /// It is text in another encoding, or none.
    #[error("can't be read: it is not UTF-8; save it as UTF-8")]
    NotUtf8,
}

/// Reads a text file, at most 1 MiB, without its byte order mark.
///
/// # Errors
/// It can't be read, is larger, or is not UTF-8.
pub fn text_of(path: &Path) -> Result<String, FileError> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|err| FileError::Unreadable(err.to_string()))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(FileError::TooLarge);
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text.trim_start_matches(BYTE_ORDER_MARK).to_owned()),
        Err(err) if matches!(err.as_bytes(), [0xff, 0xfe, ..] | [0xfe, 0xff, ..]) => {
            Err(FileError::Utf16)
        }
        Err(_) => Err(FileError::NotUtf8),
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
        assert_eq!(read(b"\xff\xfek\0e\0y\0"), Err(FileError::Utf16));
        assert_eq!(read(b"k\xe9y"), Err(FileError::NotUtf8));
        assert_eq!(read(&vec![b'a'; 1024 * 1024 + 1]), Err(FileError::TooLarge));
        let error = text_of(dir.path()).unwrap_err();
        assert!(matches!(error, FileError::Unreadable(_)), "{error}");
    }
}
