//! Files of a mirror that somebody may be reading: replaced in one call, or left alone.

use std::path::Path;

use crate::error::{Doing, Result};

/// Gives the file at `path` these contents by way of a second file and rename(2). Whether it was written: one that has them
/// already is not.
pub fn write(path: &Path, contents: &[u8]) -> Result<bool> {
    if same(path, contents) {
        return Ok(false);
    }
    let doing = || format!("cannot write {}", path.display());
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(path.file_name().unwrap_or_default());
    hidden.push(".new");
    let second = path.with_file_name(hidden);
    let written = std::fs::write(&second, contents).and_then(|()| std::fs::rename(&second, path));
    if written.is_err() {
        // The disk may be full, and what was written of it would stay so.
        let _ = std::fs::remove_file(&second);
    }
    written.doing(doing).hint(|| "Look at its free space and its rights: `df`, `ls -ld`.")?;
    Ok(true)
}

fn same(path: &Path, contents: &[u8]) -> bool {
    let equal_length = std::fs::metadata(path).is_ok_and(|data| data.is_file() && data.len() == contents.len() as u64);
    equal_length && std::fs::read(path).is_ok_and(|there| there == contents)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_other_contents_are_written_and_no_second_file_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("index.html");
        assert!(write(&path, b"one").unwrap());
        assert!(!write(&path, b"one").unwrap());
        assert!(write(&path, b"two").unwrap());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
        assert!(write(&directory.path().join("none/index.html"), b"x").is_err());
    }
}
