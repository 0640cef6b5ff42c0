//! Every file that is laid over for Python packaging, docs/python.md says why each.

use std::path::{Path, PathBuf};

use super::{Indexes, OWN_DIRECTORY, pdm_toml, pip_conf, pydistutils, uv_toml};

/// A file to lay over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverrideFile {
    /// Absolute path inside the image.
    pub path: PathBuf,
    /// Its whole text.
    pub text: String,
    /// What it is for.
    pub what: &'static str,
    /// It is laid over only where the image has such a file.
    pub only_where_present: bool,
}

#[derive(Clone, Copy)]
enum Kind {
    Pip,
    Distutils,
    Uv,
    Pdm,
}

/// Places of the image where more is laid over, absolute paths.
#[derive(Debug, Clone, Copy)]
pub struct Others<'a> {
    /// `sys.prefix` of Pythons.
    pub prefixes: &'a [PathBuf],
    /// Directories in which distutils looks for `distutils.cfg`.
    pub distutils: &'a [PathBuf],
    /// Homes of all users.
    pub homes: &'a [PathBuf],
}

/// For everybody. An absent /etc/pip.conf is laid over too: it is what `pip --isolated` and other users fall back on.
const SYSTEM: [(&str, Kind); 7] = [
    ("/etc/pip.conf", Kind::Pip),
    ("/etc/xdg/pip/pip.conf", Kind::Pip),
    ("/usr/pip.conf", Kind::Pip),
    ("/usr/local/pip.conf", Kind::Pip),
    ("/etc/uv/uv.toml", Kind::Uv),
    ("/etc/xdg/uv/uv.toml", Kind::Uv),
    ("/etc/xdg/pdm/config.toml", Kind::Pdm),
];

/// Below a home directory. pip does not read `.pip.conf`; the README of the element that dropcloth replaces names it.
const HOME: [(&str, Kind); 6] = [
    (".pip/pip.conf", Kind::Pip),
    (".pip.conf", Kind::Pip),
    (".config/pip/pip.conf", Kind::Pip),
    (".pydistutils.cfg", Kind::Distutils),
    (".config/uv/uv.toml", Kind::Uv),
    (".config/pdm/config.toml", Kind::Pdm),
];

/// dropcloth's own copies, for the variables that name one file.
const OWN: [(&str, Kind); 3] = [("pip.conf", Kind::Pip), ("pydistutils.cfg", Kind::Distutils), ("uv.toml", Kind::Uv)];

/// All paths; with `true` those that are laid over only where the image has the file: an absent one says nothing, and nobody
/// falls back on it.
fn all(homes: &[PathBuf], others: Others<'_>) -> Vec<(PathBuf, Kind, bool)> {
    let below = |home: &PathBuf| HOME.map(|(path, kind)| (home.join(path), kind));
    let always = SYSTEM.iter().map(|(path, kind)| (PathBuf::from(path), *kind));
    let always = always.chain(homes.iter().flat_map(below));
    let always = always.chain(others.distutils.iter().map(|d| (d.join("distutils.cfg"), Kind::Distutils)));
    let always = always.chain(OWN.iter().map(|(name, kind)| (Path::new(OWN_DIRECTORY).join(name), *kind)));
    let rest = others.homes.iter().filter(|home| !homes.contains(home)).flat_map(below);
    let rest = rest.chain(others.prefixes.iter().map(|prefix| (prefix.join("pip.conf"), Kind::Pip)));
    let always = always.map(|(path, kind)| (path, kind, false));
    let mut all: Vec<(PathBuf, Kind, bool)> = Vec::new();
    for one in always.chain(rest.map(|(path, kind)| (path, kind, true))) {
        // By their bytes: paths are compared component by component, which takes much longer.
        if all.iter().all(|(path, ..)| path.as_os_str() != one.0.as_os_str()) {
            all.push(one);
        }
    }
    all
}

/// The paths alone.
pub fn paths(homes: &[PathBuf], others: Others<'_>) -> Vec<PathBuf> {
    all(homes, others).into_iter().map(|(path, ..)| path).collect()
}

/// The files, for root's home and the others in `homes`.
pub fn files(indexes: &Indexes, homes: &[PathBuf], others: Others<'_>) -> Vec<OverrideFile> {
    let [pip, distutils] = [pip_conf::text(indexes), pydistutils::text(indexes)];
    let [uv, pdm] = [uv_toml::text(indexes), pdm_toml::text(indexes)];
    let file = |(path, kind, only_where_present): (PathBuf, Kind, bool)| {
        let (text, what) = match kind {
            Kind::Pip => (&pip, "pip"),
            Kind::Distutils => (&distutils, "distutils and easy_install"),
            Kind::Uv => (&uv, "uv"),
            Kind::Pdm => (&pdm, "pdm"),
        };
        OverrideFile { path, text: text.clone(), what, only_where_present }
    };
    all(homes, others).into_iter().map(file).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_is_laid_over_once_and_other_peoples_only_where_they_have_one() {
        let homes = [PathBuf::from("/root"), PathBuf::from("/home/build")];
        let others = Others {
            prefixes: &["/opt/venv".into(), "/usr/local".into()],
            distutils: &["/usr/lib/python3.11/distutils".into()],
            homes: &["/root".into(), "/home/other".into()],
        };
        let all = all(&homes, others);
        let paths: std::collections::BTreeSet<&PathBuf> = all.iter().map(|(path, ..)| path).collect();
        assert_eq!(all.len(), paths.len());
        for (path, only) in [
            ("/root/.pip/pip.conf", false),
            ("/root/.pip.conf", false),
            ("/home/build/.pydistutils.cfg", false),
            ("/run/dropcloth/uv.toml", false),
            ("/usr/lib/python3.11/distutils/distutils.cfg", false),
            ("/usr/local/pip.conf", false),
            ("/opt/venv/pip.conf", true),
            ("/home/other/.config/pip/pip.conf", true),
        ] {
            assert!(all.iter().any(|(p, _, o)| p == Path::new(path) && *o == only), "{path}");
        }
    }
}
