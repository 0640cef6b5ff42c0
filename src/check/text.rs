//! The report as a table for people.

use std::fmt::Write;
use std::path::Path;

use super::{Missing, Report, Row};

/// All of it; `image` and `mirror` for the commands that help.
pub fn text(report: &Report, image: &Path, mirror: Option<&Path>) -> String {
    let mut out = String::new();
    let pip = report.pip.as_ref().map_or_else(|| "no pip".to_owned(), |version| format!("pip {version}"));
    let _ = writeln!(out, "Python {}, {pip}; indexes: {}", report.python, report.indexes.join(" "));
    table(&mut out, &report.packages);
    for row in report.confused() {
        confused(&mut out, row);
    }
    missing(&mut out, &report.missing, image, mirror);
    for escape in &report.escapes {
        let held =
            escape.held_by.as_ref().map_or_else(|| "--network none holds it".to_owned(), |by| format!("held by {by}"));
        let _ = writeln!(out, "escape: {}:{}: {} {} ({held})", escape.file, escape.line, escape.what, escape.url);
    }
    if let Some(said) = &report.pip_failed {
        let _ = writeln!(out, "pip cannot install this:");
        said.lines().filter(|l| !l.trim().is_empty()).for_each(|line| {
            let _ = writeln!(out, "  {line}");
        });
    }
    if let Some(said) = &report.uv_failed {
        let _ = writeln!(out, "uv cannot install this:");
        said.lines().filter(|l| !l.trim().is_empty()).for_each(|line| {
            let _ = writeln!(out, "  {line}");
        });
    }
    report.notes.iter().for_each(|note| {
        let _ = writeln!(out, "note: {note}");
    });
    out
}

fn table(out: &mut String, rows: &[Row]) {
    if rows.is_empty() {
        return;
    }
    let also = |row: &Row| {
        let offers: Vec<String> = row
            .also
            .iter()
            .map(|o| format!("{} ({})", o.index, o.version.as_deref().unwrap_or("none that fits")))
            .collect();
        offers.join(", ")
    };
    let header = ["PACKAGE", "VERSION", "KIND", "FILE", "FROM", "ALSO IN"].map(str::to_owned);
    let mut lines = vec![header];
    for row in rows {
        let name = if row.requested { row.name.clone() } else { format!("  {}", row.name) };
        let from = row.index.clone().unwrap_or_else(|| "(no index)".to_owned());
        lines.push([name, row.version.clone(), row.kind.to_owned(), row.file.clone(), from, also(row)]);
        if !row.build_requires.is_empty() {
            let needs = format!("built with {}", row.build_requires.join(", "));
            lines.push([String::new(), String::new(), String::new(), needs, String::new(), String::new()]);
        }
    }
    let width = |column: usize| lines.iter().map(|l| l[column].chars().count()).max().unwrap_or(0).min(60);
    let widths: Vec<usize> = (0..6).map(width).collect();
    for line in &lines {
        let cells: Vec<String> = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        let _ = writeln!(out, "{}", cells.join("  ").trim_end());
    }
}

fn confused(out: &mut String, row: &Row) {
    if let Some(uv) = &row.uv {
        let _ = writeln!(
            out,
            "confusion: {}: pip takes {} from {}, the highest of all indexes; uv takes {} from {}, the first index that has the name",
            row.name,
            row.version,
            row.index.as_deref().unwrap_or("a URL"),
            uv.version.as_deref().unwrap_or("nothing, since none there fits"),
            uv.index
        );
    }
    for index in &row.conflicts {
        let _ = writeln!(out, "confusion: {}: {} has another hash in {index}", row.name, row.file);
    }
}

fn missing(out: &mut String, missing: &[Missing], image: &Path, mirror: Option<&Path>) {
    if missing.is_empty() {
        return;
    }
    for one in missing {
        let by =
            if one.needed_by.is_empty() { String::new() } else { format!(", needed by {}", one.needed_by.join(" > ")) };
        let build = if one.build { ", to build" } else { "" };
        let _ = writeln!(out, "missing: {}{build}{by}: {}", one.requirement, one.why);
    }
    if let Some(mirror) = mirror {
        let mut wanted: Vec<String> =
            missing.iter().map(|m| format!("'{}'", m.requirement.replace('\'', "\""))).collect();
        wanted.dedup();
        let _ = writeln!(
            out,
            "  add them, with what they need in turn: dropcloth mirror build --for {} {} --into {} --add",
            image.display(),
            wanted.join(" "),
            mirror.display()
        );
    }
}
