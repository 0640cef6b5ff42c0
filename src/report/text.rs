//! The report for people: one quiet line after a run, and the grouped list of `dropcloth changes`.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::{Fate, Report};
use crate::changes::owners::Owner;
use crate::changes::{Change, Changes, Kind, What};
use crate::sandbox::Outcome;

/// The summary line of a run.
pub fn summary(report: &Report) -> String {
    let image = report.image.display();
    let amount = format!("{}, {}", counted(report.files, "file", "files"), bytes(report.bytes));
    let removed = report.changes.list.iter().filter(|c| c.what == What::Removed).count();
    let removed = if removed > 0 { format!(", {removed} removed") } else { String::new() };
    let seconds = report.step_seconds + report.commit_seconds;
    match report.fate {
        Fate::Committed => format!("committed {amount}{removed} to {image} ({seconds:.1} s)"),
        Fate::Unchanged => format!("nothing to commit: the step changed nothing in {image} ({seconds:.1} s)"),
        Fate::Through if report.exit_code == 0 => format!("the step wrote straight to {image} ({seconds:.1} s)"),
        Fate::Through => format!("the step {}; what it wrote straight to {image} stays", failure(report)),
        Fate::Discarded => format!("discarded what the step wrote; {image} is as it was ({seconds:.1} s)"),
        Fate::DiscardedOnFailure => {
            format!("the step {}; discarded what it wrote, {image} is as it was", failure(report))
        }
        Fate::Joined => format!(
            "the transaction {} holds {amount}{removed} ({seconds:.1} s)",
            report.transaction.as_deref().unwrap_or_default()
        ),
        Fate::TakenBack => format!(
            "the step {}; what it wrote is taken back, the earlier steps of the transaction {} stay",
            failure(report),
            report.transaction.as_deref().unwrap_or_default()
        ),
        Fate::Kept => format!(
            "the step {}; kept its transaction {id} with {amount}{removed}: `dropcloth changes {id}`, `dropcloth discard {id}`",
            failure(report),
            id = report.transaction.as_deref().unwrap_or_default()
        ),
    }
}

/// Hosts in the list for people.
const ESCAPES: usize = 40;

/// The list of hosts that the step asked for and did not get.
pub fn escapes(outcome: &Outcome) -> Option<String> {
    let first = match outcome.escapes.len() {
        0 if outcome.unwatched => {
            return Some("the step killed what watches its network, so nobody knows whom it asked for".to_owned());
        }
        0 => return None,
        1 => "the step asked for a host that it did not get:".to_owned(),
        many => format!("the step asked for hosts that it did not get, {many} times:"),
    };
    let lines = outcome.escapes.iter().take(ESCAPES).map(|escape| format!("\n  {}", escape.line()));
    let more = outcome.escapes.len().saturating_sub(ESCAPES);
    let more = (more > 0).then(|| format!("\n  and {more} more, in the file of --report"));
    let rest = outcome.unwatched.then(|| "\n  and perhaps others: it killed what watches its network".to_owned());
    Some(std::iter::once(first).chain(lines).chain(more).chain(rest).collect())
}

fn failure(report: &Report) -> String {
    match report.signal {
        _ if report.escaped => "asked for hosts that it must not have (--escape fail)".to_owned(),
        Some(signal) => format!("was killed by signal {signal}"),
        None => format!("failed with exit code {}", report.exit_code),
    }
}

/// A number with its noun, thousands separated.
pub fn counted(number: usize, one: &str, many: &str) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    format!("{out} {}", if number == 1 { one } else { many })
}

/// Bytes in the unit that fits, decimal (SI).
pub fn bytes(number: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "shown with one digit after the point")]
    let number_f = number as f64;
    match number {
        0..1_000 => format!("{number} B"),
        1_000..1_000_000 => format!("{:.1} kB", number_f / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", number_f / 1e6),
        _ => format!("{:.1} GB", number_f / 1e9),
    }
}

/// More than this many entries in one directory are summed up.
const SHOWN: usize = 12;

/// The changes: what packages own as a line a package (`all`: with its files), the rest by directory, with a sum at the end.
pub fn changes(changes: &Changes, owners: &[Owner], all: bool) -> String {
    let mut groups: BTreeMap<&Owner, Vec<&Change>> = BTreeMap::new();
    for (change, owner) in changes.list.iter().zip(owners) {
        groups.entry(owner).or_default().push(change);
    }
    let alone = groups.len() == 1 && groups.contains_key(&Owner::Unowned);
    let mut out = String::new();
    for (owner, list) in &groups {
        if !alone {
            let _ = writeln!(out, "{owner}: {}", sum(list));
        }
        if all || **owner == Owner::Unowned {
            by_directory(list, if all { usize::MAX } else { SHOWN }, if alone { "" } else { "  " }, &mut out);
        }
    }
    let everything: Vec<&Change> = changes.list.iter().collect();
    let _ = writeln!(out, "{}", sum(&everything));
    for path in &changes.dropped {
        let _ = writeln!(out, "dropped: the step changed {path}, which is laid over and not part of the image");
    }
    for path in &changes.conflicts {
        let _ = writeln!(out, "conflict: somebody else changed {path} since the transaction began");
    }
    for leak in &changes.leaks {
        let _ = writeln!(out, "trace of the run: {leak}");
    }
    for what in &changes.inexact {
        let _ = writeln!(out, "not exact: {what}");
    }
    out
}

fn sum(list: &[&Change]) -> String {
    let removed = list.iter().filter(|c| c.what == What::Removed).count();
    let files: Vec<_> = list.iter().filter(|c| c.kind != Kind::Directory && c.what != What::Removed).collect();
    let size = files.iter().map(|c| c.bytes).sum();
    let removed = if removed > 0 { format!(", {removed} removed") } else { String::new() };
    format!("{} new or changed, {}{removed}", counted(files.len(), "file", "files"), bytes(size))
}

fn by_directory(list: &[&Change], shown: usize, indent: &str, out: &mut String) {
    let mut groups: BTreeMap<String, Vec<&Change>> = BTreeMap::new();
    for change in list {
        groups.entry(change.path.parent().to_string()).or_default().push(change);
    }
    for (directory, list) in &groups {
        let _ = writeln!(out, "{indent}{directory}");
        for change in list.iter().take(shown) {
            let _ = writeln!(out, "{indent}  {}", line(change));
        }
        if list.len() > shown {
            let rest = &list[shown..];
            let size = rest.iter().map(|c| c.bytes).sum();
            let _ = writeln!(out, "{indent}    … and {} more, {}", rest.len(), bytes(size));
        }
    }
}

fn line(change: &Change) -> String {
    let sign = match change.what {
        What::Added => '+',
        What::Modified => '~',
        What::Removed => '-',
        What::Renamed => '>',
        What::Attributes => '@',
    };
    let name = change.path.split().map_or_else(|| "/".to_owned(), |(_, n)| crate::image::path::escape(n));
    let tail = match change.kind {
        Kind::Directory => "/".to_owned(),
        Kind::Link => " (link)".to_owned(),
        Kind::Special => " (special)".to_owned(),
        Kind::File if change.what == What::Removed => String::new(),
        Kind::File => format!("  {}", bytes(change.bytes)),
    };
    let from = change.from.as_ref().map(|f| format!("  from {f}")).unwrap_or_default();
    format!("{sign} {name}{tail}{from}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_separated() {
        let table =
            [(0, "0 files"), (1, "1 file"), (999, "999 files"), (1_000, "1,000 files"), (1_234_567, "1,234,567 files")];
        for (number, text) in table {
            assert_eq!(counted(number, "file", "files"), text);
        }
    }

    #[test]
    fn bytes_are_shown_in_the_unit_that_fits() {
        for (number, text) in [(999, "999 B"), (1_500, "1.5 kB"), (2_340_000, "2.3 MB"), (5_000_000_000, "5.0 GB")] {
            assert_eq!(bytes(number), text);
        }
    }
}
