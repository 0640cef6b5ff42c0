//! pip: sections are ranked before files, pip documentation "Configuration" and pip's `configuration.py`.

use std::path::PathBuf;

use super::{Said, Setting, View, ini};

/// The settings that decide where packages come from.
const KEYS: [&str; 9] =
    ["index-url", "extra-index-url", "find-links", "no-index", "trusted-host", "proxy", "cert", "retries", "timeout"];

/// The files that exist or might, lowest rank first.
pub fn files(view: &View) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = view.config_dirs().into_iter().map(|d| d.join("pip/pip.conf")).collect();
    files.push("/etc/pip.conf".into());
    let named = view.variable("PIP_CONFIG_FILE").filter(|v| !v.is_empty());
    // pip asks whether the file exists; `/dev/null` does, and turns every other file off.
    if named == Some("/dev/null") {
        return Vec::new();
    }
    let replaces_users = named.is_some_and(|path| view.files.contains_key(&PathBuf::from(path)));
    if !replaces_users {
        files.push(view.home.join(".pip/pip.conf"));
        files.push(view.config_home().join("pip/pip.conf"));
    }
    files.push(view.prefix.join("pip.conf"));
    files.extend(named.map(PathBuf::from));
    files
}

/// For `pip install`.
pub fn settings(view: &View, faults: &mut Vec<String>) -> Vec<Setting> {
    let mut entries = Vec::new();
    for path in files(view) {
        let Some(text) = view.files.get(&path) else { continue };
        match ini::parse(text) {
            Ok(list) => entries.extend(list.into_iter().map(|entry| (path.clone(), entry))),
            Err(why) => faults.push(format!("{}: {why}: pip ends with a configuration error", path.display())),
        }
    }
    let said = |key: &'static str| {
        let mut said = Vec::new();
        for section in ["global", "install"] {
            let of_section = entries.iter().filter(|(_, e)| e.section == section && normal(&e.key) == key);
            said.extend(of_section.map(|(path, e)| Ranked {
                section,
                said: Said { values: words(key, &e.value), by: format!("{} [{section}]", path.display()) },
            }));
        }
        let variable = format!("PIP_{}", key.to_uppercase().replace('-', "_"));
        let value = view.variable(&variable).filter(|v| !v.is_empty());
        said.extend(value.map(|value| Ranked { section: "", said: Said { values: words(key, value), by: variable } }));
        setting(key, said)
    };
    KEYS.into_iter().map(said).collect()
}

struct Ranked {
    /// Empty for variables.
    section: &'static str,
    said: Said,
}

/// From all that is said, lowest rank first. Within a section a file of higher rank takes the place of the lower ones, even
/// with an empty value; the section below then counts.
fn setting(key: &'static str, said: Vec<Ranked>) -> Setting {
    let mut cleared = Vec::new();
    let mut setting = Setting { key, holds: Vec::new(), lost: Vec::new() };
    for Ranked { section, said } in said.into_iter().rev() {
        if setting.holds.is_empty() && !cleared.contains(&section) && !said.values.is_empty() {
            setting.holds.push(said);
        } else {
            if said.values.is_empty() {
                cleared.push(section);
            }
            setting.lost.push(said);
        }
    }
    setting
}

fn normal(key: &str) -> String {
    key.trim_start_matches("--").replace('_', "-")
}

/// Lists are separated by white space, in files and in variables.
fn words(key: &str, value: &str) -> Vec<String> {
    match key {
        "extra-index-url" | "find-links" | "trusted-host" => value.split_whitespace().map(str::to_owned).collect(),
        _ => Some(value.trim()).filter(|v| !v.is_empty()).map(str::to_owned).into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(files: &[(&str, &str)], environment: &[(&str, &str)]) -> View {
        View {
            files: files.iter().map(|(path, text)| (PathBuf::from(path), (*text).to_owned())).collect(),
            environment: environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            home: "/root".into(),
            prefix: "/usr".into(),
            ..View::default()
        }
    }

    fn holds(view: &View, key: &str) -> (Vec<String>, String) {
        let all = settings(view, &mut Vec::new());
        let found = all.into_iter().find(|s| s.key == key).unwrap();
        found.holds.into_iter().next().map_or_else(Default::default, |said| (said.values, said.by))
    }

    #[test]
    fn a_section_of_a_low_file_beats_global_of_a_high_one() {
        let files = [
            ("/etc/pip.conf", "[install]\nindex-url=http://corp\n"),
            ("/root/.config/pip/pip.conf", "[global]\nindex_url=http://user\n"),
        ];
        assert_eq!(
            holds(&view(&files, &[]), "index-url"),
            (vec!["http://corp".into()], "/etc/pip.conf [install]".into())
        );
        let with = view(&files, &[("PIP_INDEX_URL", "http://env")]);
        assert_eq!(holds(&with, "index-url"), (vec!["http://env".into()], "PIP_INDEX_URL".into()));
        let empty = view(&files, &[("PIP_INDEX_URL", "")]);
        assert_eq!(holds(&empty, "index-url").1, "/etc/pip.conf [install]");
    }

    #[test]
    fn an_empty_value_of_a_higher_file_clears_its_section_only() {
        let files = [
            ("/etc/pip.conf", "[global]\nextra-index-url = http://g\n[install]\nextra-index-url = http://i\n"),
            ("/root/.pip/pip.conf", "[install]\nextra-index-url =\n"),
        ];
        assert_eq!(holds(&view(&files, &[]), "extra-index-url").1, "/etc/pip.conf [global]");
    }

    #[test]
    fn a_named_file_turns_the_users_files_off_and_dev_null_all() {
        let files = [
            ("/etc/pip.conf", "[global]\nindex-url=http://etc\n"),
            ("/root/.pip/pip.conf", "[global]\nindex-url=http://user\n"),
            ("/other.conf", "[global]\ntimeout=3\n"),
        ];
        assert_eq!(holds(&view(&files, &[]), "index-url").0, ["http://user"]);
        assert_eq!(holds(&view(&files, &[("PIP_CONFIG_FILE", "/other.conf")]), "index-url").0, ["http://etc"]);
        assert_eq!(holds(&view(&files, &[("PIP_CONFIG_FILE", "/missing")]), "index-url").0, ["http://user"]);
        assert!(holds(&view(&files, &[("PIP_CONFIG_FILE", "/dev/null")]), "index-url").0.is_empty());
    }
}
