//! uv: files are merged, lists of indexes are joined, uv documentation "Configuration files" and "Package indexes".

use std::path::PathBuf;

use super::{Said, Setting, View, look_up, strings};

/// The files that exist or might, highest rank first.
pub fn files(view: &View) -> Vec<PathBuf> {
    if let Some(named) = view.variable("UV_CONFIG_FILE").filter(|v| !v.is_empty()) {
        return vec![PathBuf::from(named)];
    }
    if view.variable("UV_NO_CONFIG").is_some_and(|v| !["", "0", "false"].contains(&v)) {
        return Vec::new();
    }
    let mut files = vec![view.workdir.join("uv.toml"), view.workdir.join("pyproject.toml")];
    files.push(view.config_home().join("uv/uv.toml"));
    files.extend(system(view));
    files
}

/// The system's files, of which uv reads the first that exists.
fn system(view: &View) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = view.config_dirs().into_iter().map(|d| d.join("uv/uv.toml")).collect();
    files.push("/etc/uv/uv.toml".into());
    files
}

/// The tables of the files that are read, highest rank first.
fn tables(view: &View, faults: &mut Vec<String>) -> Vec<(String, toml::Table)> {
    let system = system(view);
    let (mut system_found, mut project_found) = (false, false);
    let mut found = Vec::new();
    for path in files(view) {
        let is_project = path.parent() == Some(&view.workdir) && view.variable("UV_CONFIG_FILE").is_none();
        if is_project && project_found || system.contains(&path) && system_found {
            continue;
        }
        let Some(table) = view.toml(&path, faults) else { continue };
        let name = path.display().to_string();
        if path.file_name() == Some("pyproject.toml".as_ref()) {
            let Some(inner) = look_up(&table, &["tool", "uv"]).and_then(|v| v.as_table()) else { continue };
            found.push((format!("{name} [tool.uv]"), inner.clone()));
        } else {
            found.push((name, table));
        }
        project_found |= is_project;
        system_found |= system.contains(&path);
    }
    found
}

/// What decides where packages come from.
pub fn settings(view: &View, faults: &mut Vec<String>) -> Vec<Setting> {
    let tables = tables(view, faults);
    let mut settings = vec![default_index(view, &tables), indexes(view, &tables)];
    let simple = [
        ("find-links", "UV_FIND_LINKS"),
        ("no-index", "UV_NO_INDEX"),
        ("offline", "UV_OFFLINE"),
        ("index-strategy", "UV_INDEX_STRATEGY"),
        ("python-downloads", "UV_PYTHON_DOWNLOADS"),
    ];
    for (key, variable) in simple {
        let mut said = of_files(&tables, &[key]);
        said.extend(variable_said(view, variable));
        settings.push(Setting::last_wins(key, said));
    }
    settings
}

/// What the files say about a key, lowest rank first.
fn of_files(tables: &[(String, toml::Table)], path: &[&str]) -> Vec<Said> {
    let said = tables.iter().rev().filter_map(|(name, table)| Some((name, strings(look_up(table, path)?))));
    said.map(|(name, values)| Said { values, by: format!("{name} {}", path.join(".")) }).collect()
}

fn variable_said(view: &View, name: &str) -> Option<Said> {
    let value = view.variable(name).filter(|v| !v.is_empty())?;
    Some(Said { values: value.split_whitespace().map(str::to_owned).collect(), by: name.to_owned() })
}

/// The `[[index]]` tables of a file that are the default one, or that are not. An explicit index serves only what names it.
fn tables_of_index(table: &toml::Table, default: bool) -> Vec<String> {
    let is = |index: &&toml::Value, key: &str| index.get(key).and_then(toml::Value::as_bool).unwrap_or(false);
    let list = table.get("index").and_then(|v| v.as_array()).map(Vec::as_slice).unwrap_or_default();
    list.iter().filter(|i| is(i, "default") == default && !is(i, "explicit")).flat_map(strings).collect()
}

/// One index is the default: the last place to look for a name.
fn default_index(view: &View, tables: &[(String, toml::Table)]) -> Setting {
    let mut said = of_files(tables, &["index-url"]);
    for (name, table) in tables.iter().rev() {
        let values: Vec<String> = tables_of_index(table, true).into_iter().take(1).collect();
        if !values.is_empty() {
            said.push(Said { values, by: format!("{name} [[index]] default") });
        }
    }
    said.extend(["UV_INDEX_URL", "UV_DEFAULT_INDEX"].into_iter().filter_map(|name| variable_said(view, name)));
    Setting::last_wins("default index", said)
}

/// The others are joined: none takes another's place.
fn indexes(view: &View, tables: &[(String, toml::Table)]) -> Setting {
    let mut holds: Vec<Said> =
        ["UV_INDEX", "UV_EXTRA_INDEX_URL"].into_iter().filter_map(|name| variable_said(view, name)).collect();
    for (name, table) in tables {
        for (values, key) in
            [(tables_of_index(table, false), "[[index]]"), (list(table, "extra-index-url"), "extra-index-url")]
        {
            if !values.is_empty() {
                holds.push(Said { values, by: format!("{name} {key}") });
            }
        }
    }
    Setting { key: "index", holds, lost: Vec::new() }
}

fn list(table: &toml::Table, key: &str) -> Vec<String> {
    table.get(key).map(strings).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(files: &[(&str, &str)], environment: &[(&str, &str)]) -> View {
        View {
            files: files.iter().map(|(path, text)| (PathBuf::from(path), (*text).to_owned())).collect(),
            environment: environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            home: "/root".into(),
            workdir: "/src".into(),
            ..View::default()
        }
    }

    fn get(view: &View, key: &str) -> Setting {
        settings(view, &mut Vec::new()).into_iter().find(|s| s.key == key).unwrap()
    }

    #[test]
    fn indexes_of_all_files_are_joined_and_one_default_wins() {
        let user = "[[index]]\nurl='http://u'\n[[index]]\nurl='http://ud'\ndefault=true\n";
        let project =
            "[tool.uv]\n[[tool.uv.index]]\nurl='http://p'\n[[tool.uv.index]]\nurl='http://x'\nexplicit=true\n";
        let files = [("/root/.config/uv/uv.toml", user), ("/src/pyproject.toml", project)];
        let seen = view(&files, &[]);
        assert_eq!(get(&seen, "index").values(), ["http://p", "http://u"]);
        assert_eq!(get(&seen, "default index").values(), ["http://ud"]);
        let with = view(&files, &[("UV_DEFAULT_INDEX", "http://env"), ("UV_INDEX", "http://a http://b")]);
        assert_eq!(get(&with, "index").values(), ["http://a", "http://b", "http://p", "http://u"]);
        assert_eq!(get(&with, "default index").holds[0].by, "UV_DEFAULT_INDEX");
        assert_eq!(get(&with, "default index").lost[0].values, ["http://ud"]);
    }

    #[test]
    fn a_named_file_is_the_only_one_and_of_the_systems_the_first() {
        let files = [
            ("/etc/xdg/uv/uv.toml", "offline=true\n"),
            ("/etc/uv/uv.toml", "offline=false\nno-index=true\n"),
            ("/own.toml", "find-links=['/a','/b']\n"),
        ];
        let seen = view(&files, &[]);
        assert_eq!((get(&seen, "offline").values(), get(&seen, "no-index").values()), (vec!["true"], vec![]));
        let named = view(&files, &[("UV_CONFIG_FILE", "/own.toml")]);
        assert_eq!((get(&named, "offline").values(), get(&named, "find-links").values()), (vec![], vec!["/a", "/b"]));
        let mut faults = Vec::new();
        settings(&view(&[("/src/uv.toml", "= nothing")], &[]), &mut faults);
        assert_eq!(faults.len(), 1);
    }
}
