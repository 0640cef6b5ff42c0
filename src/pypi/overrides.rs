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
}

#[derive(Clone, Copy)]
enum Kind {
    Pip,
    Distutils,
    Uv,
    Pdm,
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

fn all(homes: &[PathBuf]) -> Vec<(PathBuf, Kind)> {
    let system = SYSTEM.iter().map(|(path, kind)| (PathBuf::from(path), *kind));
    let home = homes.iter().flat_map(|home| HOME.iter().map(|(path, kind)| (home.join(path), *kind)));
    let own = OWN.iter().map(|(name, kind)| (Path::new(OWN_DIRECTORY).join(name), *kind));
    system.chain(home).chain(own).collect()
}

/// The paths alone.
pub fn paths(homes: &[PathBuf]) -> Vec<PathBuf> {
    all(homes).into_iter().map(|(path, _)| path).collect()
}

/// The files, for root's home and the others in `homes`.
pub fn files(indexes: &Indexes, homes: &[PathBuf]) -> Vec<OverrideFile> {
    let file = |(path, kind): (PathBuf, Kind)| {
        let (text, what) = match kind {
            Kind::Pip => (pip_conf::text(indexes), "pip"),
            Kind::Distutils => (pydistutils::text(indexes), "distutils and easy_install"),
            Kind::Uv => (uv_toml::text(indexes), "uv"),
            Kind::Pdm => (pdm_toml::text(indexes), "pdm"),
        };
        OverrideFile { path, text, what }
    };
    all(homes).into_iter().map(file).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_is_laid_over_once() {
        let homes = [PathBuf::from("/root"), PathBuf::from("/home/build")];
        let mut all = paths(&homes);
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count);
        for path in ["/root/.pip/pip.conf", "/root/.pip.conf", "/home/build/.pydistutils.cfg", "/run/dropcloth/uv.toml"]
        {
            assert!(all.contains(&PathBuf::from(path)), "{path}");
        }
    }
}
