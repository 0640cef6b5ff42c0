//! What is said about a run, and what it returns.

use super::common::{Prepared, say};
use crate::changes::Changes;
use crate::error::Result;
use crate::exit::Exit;
use crate::report::{self, Fate, Report};
use crate::sandbox::Outcome;
use crate::sys::process::Ended;

/// Reports, and returns the exit status.
pub fn tell(
    prepared: &Prepared,
    outcome: &Outcome,
    changes: Changes,
    fate: Fate,
    transaction: Option<String>,
    (step_seconds, commit_seconds): (f64, f64),
) -> Result<u8> {
    let plan = &prepared.plan;
    let (files, bytes) = changes.files();
    let dropped = changes.dropped.clone();
    let report = Report {
        version: 1,
        image: plan.image.clone(),
        command: plan.command.iter().map(crate::plan::OsStringText::text).collect(),
        exit_code: exit_code(outcome),
        signal: if let Ended::Signaled(signal) = outcome.ended { Some(signal) } else { None },
        fate,
        transaction,
        step_seconds,
        commit_seconds,
        files,
        bytes,
        changes,
        dropped_overrides: dropped,
        escapes: outcome.escapes.clone(),
        unwatched: outcome.unwatched,
        escaped: outcome.ended == Ended::Exited(0) && outcome.escaped,
        notes: plan.notes.clone(),
    };
    report::text::escapes(outcome).iter().for_each(|text| say(text));
    for path in &report.dropped_overrides {
        log::warn!(
            "the step changed {path}, which is laid over: its version is dropped (when_changed: keep would keep it)"
        );
    }
    say(&report::text::summary(&report));
    if let Some(path) = &prepared.settings.report.value {
        report::json::write(&report, path)?;
    }
    Ok(report.exit_code)
}

/// Whoever interrupts dropcloth wants the step undone, even one that takes the signal for a good reason to end.
pub fn succeeded(outcome: &Outcome) -> bool {
    outcome.ended == Ended::Exited(0) && outcome.interrupted.is_none() && !outcome.escaped
}

/// The step's own status; for one that ended well because dropcloth was interrupted, that signal's, and for one that ended well
/// and asked for hosts that it must not have, one of dropcloth's own.
pub fn exit_code(outcome: &Outcome) -> u8 {
    match (outcome.ended, outcome.interrupted) {
        (Ended::Exited(0), Some(signal)) => Ended::Signaled(signal).code(),
        (Ended::Exited(0), None) if outcome.escaped => Exit::Escaped.code(),
        (ended, _) => ended.code(),
    }
}
