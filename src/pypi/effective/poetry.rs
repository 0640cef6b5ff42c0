//! poetry: nothing replaces PyPI but the sources of the project; with poetry-plugin-pypi-mirror one variable or setting does,
//! and takes http only.

use std::path::PathBuf;

use super::{Said, Setting, View, look_up, strings};

/// The files that exist or might, lowest rank first.
pub fn files(view: &View) -> Vec<PathBuf> {
    let home = view.config_home().join("pypoetry/config.toml");
    vec![home, view.workdir.join("poetry.toml"), view.workdir.join("pyproject.toml")]
}

/// The plugin's mirror, and the project's sources.
pub fn settings(view: &View, faults: &mut Vec<String>) -> Vec<Setting> {
    let (mut mirror, mut sources) = (Vec::new(), Vec::new());
    for path in files(view) {
        let Some(table) = view.toml(&path, faults) else { continue };
        let name = path.display();
        if let Some(value) = look_up(&table, &["plugins", "pypi_mirror", "url"]) {
            mirror.push(Said { values: strings(value), by: format!("{name} [plugins.pypi_mirror]") });
        }
        let list = look_up(&table, &["tool", "poetry", "source"]).and_then(|v| v.as_array());
        sources.extend(
            list.into_iter()
                .flatten()
                .map(|source| Said { values: strings(source), by: format!("{name} [[tool.poetry.source]]") }),
        );
    }
    let variable = view.variable("POETRY_PYPI_MIRROR_URL").filter(|v| !v.is_empty());
    mirror
        .extend(variable.map(|value| Said { values: vec![value.to_owned()], by: "POETRY_PYPI_MIRROR_URL".to_owned() }));
    vec![
        Setting::last_wins("mirror (with poetry-plugin-pypi-mirror)", mirror),
        Setting { key: "source", holds: sources, lost: Vec::new() },
    ]
}
