//! pdm: one PyPI URL, and the sources of the project, pdm documentation "Configure the project".

use std::path::PathBuf;

use super::{Said, Setting, View, look_up, strings};

/// The files that exist or might, lowest rank first.
pub fn files(view: &View) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = view.config_dirs().into_iter().map(|d| d.join("pdm/config.toml")).collect();
    files.push(view.config_home().join("pdm/config.toml"));
    files.push(view.workdir.join("pdm.toml"));
    files.push(view.workdir.join("pyproject.toml"));
    files
}

/// The URL that stands for PyPI, and the project's sources beside it: one named `pypi` takes its place.
pub fn settings(view: &View, faults: &mut Vec<String>) -> Vec<Setting> {
    let (mut url, mut sources) = (Vec::new(), Vec::new());
    for path in files(view) {
        let Some(table) = view.toml(&path, faults) else { continue };
        let name = path.display();
        if let Some(value) = look_up(&table, &["pypi", "url"]) {
            url.push(Said { values: strings(value), by: format!("{name} [pypi]") });
        }
        let list = look_up(&table, &["tool", "pdm", "source"]).and_then(|v| v.as_array()).cloned().unwrap_or_default();
        for source in list {
            let said = Said { values: strings(&source), by: format!("{name} [[tool.pdm.source]]") };
            let replaces = source.get("name").and_then(toml::Value::as_str) == Some("pypi");
            if replaces { &mut url } else { &mut sources }.push(said);
        }
    }
    let variable = view.variable("PDM_PYPI_URL").filter(|v| !v.is_empty());
    let said = variable.map(|value| Said { values: vec![value.to_owned()], by: "PDM_PYPI_URL".to_owned() });
    // The project's own source named pypi wins over the variable.
    let place = url.iter().position(|s| s.by.ends_with("[[tool.pdm.source]]")).unwrap_or(url.len());
    url.splice(place..place, said);
    vec![Setting::last_wins("pypi.url", url), Setting { key: "source", holds: sources, lost: Vec::new() }]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_beats_the_files_and_a_source_named_pypi_beats_the_variable() {
        let files = [(PathBuf::from("/root/.config/pdm/config.toml"), "[pypi]\nurl='http://user'\n".to_owned())];
        let environment = [("PDM_PYPI_URL".to_owned(), "http://env".to_owned())];
        let mut view = View {
            files: files.into(),
            environment: environment.into(),
            home: "/root".into(),
            workdir: "/src".into(),
            ..View::default()
        };
        assert_eq!(settings(&view, &mut Vec::new())[0].values(), ["http://env"]);
        let project =
            "[[tool.pdm.source]]\nname='pypi'\nurl='http://p'\n[[tool.pdm.source]]\nname='x'\nurl='http://x'\n";
        view.files.insert("/src/pyproject.toml".into(), project.to_owned());
        let all = settings(&view, &mut Vec::new());
        assert_eq!((all[0].values(), all[1].values()), (vec!["http://p"], vec!["http://x"]));
        assert_eq!(all[0].lost.len(), 2);
    }
}
