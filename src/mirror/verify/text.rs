//! The report for people.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

use super::{Finding, Installer, Report};

/// A line a fault, and each next step once.
pub fn text(report: &Report, directory: &Path) -> String {
    let mut out = String::new();
    for Finding { place, page, what, breaks, .. } in &report.faults {
        let page = page.as_ref().map_or_else(String::new, |page| format!(" ({page})"));
        let _ = writeln!(out, "breaks {}: {place}: {what}{page}", who(breaks));
    }
    let next: BTreeSet<&str> = report.faults.iter().map(|finding| finding.next.as_str()).collect();
    for next in next {
        let _ = writeln!(out, "  {}", next.replace("DIR", &directory.display().to_string()));
    }
    let (files, projects) = (report.files, report.projects);
    let _ = match report.faults.len() {
        0 => writeln!(out, "good: {files} files of {projects} projects, each as its page says"),
        faults => writeln!(out, "not good: {faults} faults in {files} files of {projects} projects"),
    };
    out
}

fn who(breaks: &[Installer]) -> &'static str {
    match breaks {
        [Installer::Pip] => "pip",
        [Installer::Uv] => "uv",
        [Installer::Pip, Installer::UvByHttp] => "pip, and uv by http",
        _ => "pip and uv",
    }
}
