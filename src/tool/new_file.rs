//! Files that tools write: there whole or not at all, never in the place of another.
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, IntoInnerError, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::anyhow;

use super::{Exit, Failure};

/// A new file, which only its owner may read. It has its name when all of it is on the disk; until then a temporary file in the same
/// folder holds it, which is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct NewFile {
    path: PathBuf,
    temporary: Temporary,
    out: BufWriter<File>,
}

impl NewFile {
    /// Begins a file.
    ///
    /// # Errors
    /// There is one of this name, or none can be made there.
    pub(crate) fn create(path: &Path) -> Result<Self, Failure> {
        if path == Path::new("-") {
            let problem = "`-` is no file here: name one";
            return Err(Failure::new(Exit::Usage, anyhow!(problem)));
        }
        let created = Self::try_create(path);
        created.map_err(|err| explained(path, err))
    }

    fn try_create(path: &Path) -> io::Result<Self> {
        if path.symlink_metadata().is_ok() {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let name = format!(".convgroup-{:016x}.tmp", rand::random::<u64>());
        let temporary = Temporary(folder(path).join(name));
        let out = BufWriter::new(create_new(&temporary.0)?);
        Ok(Self {
            path: path.to_owned(),
            temporary,
            out,
        })
    }

    /// Adds to it.
    ///
    /// # Errors
    /// It can't be written.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let written = self.out.write_all(bytes);
        written.map_err(|err| explained(&self.path, err))
    }

    /// Gives it its name, when all of it is on the disk.
    ///
    /// # Errors
    /// It can't be written, or there is one of this name by now.
    pub(crate) fn keep(self) -> Result<(), Failure> {
        let Self {
            path,
            temporary,
            out,
        } = self;
        let kept = move |path: &Path| {
            let file = out.into_inner().map_err(IntoInnerError::into_error)?;
            file.sync_all()?;
            // Made first, so that the renaming replaces nobody's file: a name can be taken meanwhile.
            create_new(path)?;
            fs::rename(&temporary.0, path)
                .and_then(|()| sync_folder(folder(path)))
                .inspect_err(|_| drop(fs::remove_file(path)))
        };
        kept(&path).map_err(|err| explained(&path, err))
    }
}

fn explained(path: &Path, err: io::Error) -> Failure {
    let name = path.display();
    let err = if err.kind() == ErrorKind::AlreadyExists {
        anyhow!("{name} is there already (an existing file is not overwritten)")
    } else {
        let what = format!("{name} can't be written; nothing of it was left behind");
        anyhow::Error::new(err).context(what)
    };
    Failure::new(Exit::Other, err)
}

/// A name like this one that nothing has yet: `report-2.ndjson` for `report.ndjson`.
pub(crate) fn another(path: &Path) -> PathBuf {
    let is_free = |path: &PathBuf| path.symlink_metadata().is_err();
    let mut names = (2..).map(|number: u32| numbered(path, number));
    names.find(is_free).unwrap_or_else(|| path.to_owned())
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.file_stem().unwrap_or_default().to_owned();
    name.push(format!("-{number}"));
    if let Some(extension) = path.extension() {
        name.push(".");
        name.push(extension);
    }
    path.with_file_name(name)
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

/// A new file that only its owner may read.
fn create_new(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600).open(path)
}

/// Makes sure that a new name in the folder is on the disk. Some file systems can't, and say so; a folder that may not be read
/// can't be asked.
fn sync_folder(folder: &Path) -> io::Result<()> {
    let Ok(folder) = File::open(folder) else {
        return Ok(());
    };
    match folder.sync_all() {
        Err(err) if matches!(err.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => {
            Ok(())
        }
        synced => synced,
    }
}

/// A temporary file. It is removed when this is dropped, unless it has got another name.
#[derive(Debug)]
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_name_is_like_the_first() {
        for (path, expect) in [
            ("report.ndjson", "report-3.ndjson"),
            ("a/report", "a/report-3"),
            ("/r/.hidden", "/r/.hidden-3"),
        ] {
            assert_eq!(numbered(Path::new(path), 3), Path::new(expect));
        }
        let folder = tempfile::TempDir::new().unwrap();
        for expect in ["report-2.ndjson", "report-3.ndjson"] {
            let free = another(&folder.path().join("report.ndjson"));
            assert_eq!(free, folder.path().join(expect));
            File::create(free).unwrap();
        }
    }
}
