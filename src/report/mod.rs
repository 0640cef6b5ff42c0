//! What happened, for people and for programs.

pub mod json;
pub mod text;

use std::path::PathBuf;

use serde::Serialize;

use crate::changes::Changes;
use crate::escape::Escape;
use crate::image::Inside;

/// What became of the step's writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// In the image.
    Committed,
    /// The step changed nothing.
    Unchanged,
    /// In the image, written there by the step itself, whether it failed or not; nobody kept a list.
    Through,
    /// Thrown away, as was asked.
    Discarded,
    /// Thrown away, because the step failed.
    DiscardedOnFailure,
    /// Kept in the transaction of a step that failed.
    Kept,
    /// In the named transaction, with those of its other steps.
    Joined,
    /// A failed step of a named transaction: the other steps' are still in it.
    TakenBack,
}

/// One run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Format of this report.
    pub version: u32,
    /// The image.
    pub image: PathBuf,
    /// The command.
    pub command: Vec<String>,
    /// The step's exit code (128 + n for a signal).
    pub exit_code: u8,
    /// The signal that killed it.
    pub signal: Option<i32>,
    /// What became of its writes.
    pub fate: Fate,
    /// The transaction's id, when it is kept.
    pub transaction: Option<String>,
    /// Seconds the step took, set-up and tear-down of the sandbox included.
    pub step_seconds: f64,
    /// Seconds the scan and the commit took.
    pub commit_seconds: f64,
    /// Changed entries that are not directories.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// All changes.
    pub changes: Changes,
    /// Overrides whose change by the step was dropped.
    pub dropped_overrides: Vec<Inside>,
    /// Hosts that the step asked for and did not get.
    pub escapes: Vec<Escape>,
    /// The step ended what watches its network, so some may be missing.
    pub unwatched: bool,
    /// The step ended well, and the run failed by them (`--escape fail`).
    pub escaped: bool,
    /// Things the user should know.
    pub notes: Vec<String>,
}
