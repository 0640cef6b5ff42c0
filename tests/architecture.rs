//! The rules of the house: which room may use what.
#![allow(missing_docs, clippy::disallowed_methods, reason = "a test starts programs and clears up after itself")]

use std::path::{Path, PathBuf};

fn project() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from)
}

fn sources(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    assert!(!found.is_empty(), "no sources in {}", directory.display());
    found
}

/// The lines of code, without comments and without the unit tests at the end of a file.
fn code(path: &Path) -> Vec<(usize, String)> {
    let text = std::fs::read_to_string(path).unwrap();
    let lines = text.lines().take_while(|l| !l.starts_with("#[cfg(test)]")).enumerate();
    lines.map(|(n, l)| (n + 1, l.split("//").next().unwrap_or_default().replace("std::os::unix::", ""))).collect()
}

fn offences(room: &str, forbidden: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for path in sources(&project().join("src").join(room)) {
        for (number, line) in code(&path) {
            for word in forbidden.iter().filter(|w| line.contains(**w)) {
                found.push(format!("{}:{number}: {word}", path.display()));
            }
        }
    }
    found
}

#[test]
fn plan_and_pypi_are_pure() {
    let forbidden =
        ["std::fs", "std::env", "std::process", "std::time", "crate::sys", "rustix::", "nix::", "libc::", "println!"];
    for room in ["plan", "pypi"] {
        assert_eq!(offences(room, &forbidden), Vec::<String>::new());
    }
}

#[test]
fn only_sys_has_unsafe_code() {
    let src = project().join("src");
    let mut found = Vec::new();
    for path in sources(&src).into_iter().filter(|p| !p.starts_with(src.join("sys"))) {
        let unsafe_lines = code(&path).into_iter().filter(|(_, l)| l.contains("unsafe") && !l.contains("unsafe_code"));
        found.extend(unsafe_lines.map(|(n, _)| format!("{}:{n}", path.display())));
    }
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn the_image_is_entered_through_its_handle_only() {
    let mut found = Vec::new();
    for room in ["changes", "sandbox", "plan", "report"] {
        found.extend(offences(
            room,
            &["image.path().join", "image_path.join", "root_path.join", "std::fs::remove_dir_all"],
        ));
    }
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn lower_rooms_do_not_know_higher_ones() {
    let rules: [(&str, &[&str]); 8] = [
        ("sys", &["crate::plan", "crate::settings", "crate::sandbox", "crate::changes", "crate::image", "crate::cli"]),
        ("pypi", &["crate::plan", "crate::sandbox", "crate::changes", "crate::image", "crate::cli", "crate::host"]),
        (
            "settings",
            &["crate::plan", "crate::sandbox", "crate::changes", "crate::cli", "crate::host", "crate::transaction"],
        ),
        ("proxy", &["crate::plan", "crate::sandbox", "crate::changes", "crate::image", "crate::cli", "crate::host"]),
        ("escape", &["crate::plan", "crate::sandbox", "crate::changes", "crate::image", "crate::cli", "crate::host"]),
        ("image", &["crate::plan", "crate::sandbox", "crate::changes", "crate::cli", "crate::settings"]),
        ("mirror", &["crate::plan", "crate::sandbox", "crate::changes", "crate::image", "crate::cli", "crate::host"]),
        ("plan", &["crate::sandbox", "crate::changes", "crate::cli", "crate::transaction", "crate::report"]),
    ];
    let found: Vec<String> = rules.iter().flat_map(|(room, forbidden)| offences(room, forbidden)).collect();
    assert_eq!(found, Vec::<String>::new());
}
