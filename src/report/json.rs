//! The report as a JSON file.

use std::io::Write;
use std::path::Path;

use super::Report;
use crate::error::{Doing, Result};

/// Writes `report` to `path`, replacing an older file in one step.
pub fn write(report: &Report, path: &Path) -> Result<()> {
    let doing = || format!("cannot write the report {}", path.display());
    let mut text = serde_json::to_vec_pretty(report)?;
    text.push(b'\n');
    let temporary = path.with_extension(format!("tmp{}", std::process::id()));
    let mut file = std::fs::File::create(&temporary).doing(doing)?;
    file.write_all(&text).doing(doing)?;
    std::fs::rename(&temporary, path).doing(doing)
}

/// Refuses a report that could not be written, before anything is run.
pub fn check(path: &Path) -> Result<()> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if parent.is_dir() && !path.is_dir() {
        return Ok(());
    }
    crate::error::refuse(
        crate::error::Fault::new(format!("the report cannot be written to {}", path.display()))
            .hint("Give --report a file name in a directory that exists."),
    )
}
