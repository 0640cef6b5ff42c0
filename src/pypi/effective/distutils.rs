//! easy_install and setuptools' `setup_requires`: distutils' files, Python documentation "Distutils configuration files".

use std::path::PathBuf;

use super::{Said, Setting, View, ini};

/// The files that exist or might, lowest rank first.
pub fn files(view: &View) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = view.distutils.iter().map(|d| d.join("distutils.cfg")).collect();
    files.push(view.home.join(".pydistutils.cfg"));
    files.push(view.workdir.join("setup.cfg"));
    files.extend(view.variable("DIST_EXTRA_CONFIG").filter(|v| !v.is_empty()).map(PathBuf::from));
    files
}

/// Of the section `[easy_install]`.
pub fn settings(view: &View, faults: &mut Vec<String>) -> Vec<Setting> {
    let mut entries = Vec::new();
    for path in files(view) {
        let Some(text) = view.files.get(&path) else { continue };
        match ini::parse(text) {
            Ok(list) => entries.extend(list.into_iter().map(|entry| (path.clone(), entry))),
            Err(why) => faults.push(format!("{}: {why}: every setup.py ends with an error", path.display())),
        }
    }
    let setting = |key: &'static str| {
        let of_key = entries.iter().filter(|(_, e)| e.section == "easy_install" && e.key.replace('-', "_") == key);
        let said = of_key.map(|(path, e)| Said {
            values: e.value.split_whitespace().map(|v| v.replace("%%", "%")).collect(),
            by: format!("{} [easy_install]", path.display()),
        });
        Setting::last_wins(key, said.collect())
    };
    ["index_url", "find_links"].map(setting).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_projects_file_beats_the_users_and_the_named_file_beats_both() {
        let file = |path: &str, url: &str| (PathBuf::from(path), format!("[easy_install]\nindex_url = {url}\n"));
        let files = [file("/root/.pydistutils.cfg", "http://user/%%40"), file("/src/setup.cfg", "http://project")];
        let mut view = View { files: files.into(), home: "/root".into(), workdir: "/src".into(), ..View::default() };
        let first = |view: &View| settings(view, &mut Vec::new())[0].clone();
        assert_eq!(first(&view).values(), ["http://project"]);
        assert_eq!(first(&view).lost[0].values, ["http://user/%40"]);
        view.files.extend([file("/run/x.cfg", "http://extra")]);
        view.environment.insert("DIST_EXTRA_CONFIG".into(), "/run/x.cfg".into());
        assert_eq!(first(&view).values(), ["http://extra"]);
    }
}
