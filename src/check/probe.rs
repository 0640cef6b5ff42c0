//! What the image's own Python says: the probe's output, and what can be asked of it.

use std::collections::BTreeMap;

use pep440_rs::{Version, VersionSpecifiers};
use pep508_rs::{ExtraName, MarkerEnvironment, MarkerEnvironmentBuilder, VersionOrUrl};
use serde::Deserialize;

use crate::error::{Doing, Fault, Result, refuse};
use crate::pypi::requirement::Wish;

/// The program that runs in the image.
pub const PROGRAM: &str = include_str!("probe.py");

/// Its output. Nothing of it is trusted further than to be printed: it comes from the image.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Facts {
    /// Python's version.
    pub python: String,
    /// pip's version.
    pub pip: Option<String>,
    /// Why pip could not be asked.
    pub fault: Option<String>,
    /// Tags of wheels, best first.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Values of environment markers, PEP 508.
    #[serde(default)]
    environment: BTreeMap<String, String>,
    /// pip's exit status; none: it was not asked.
    pub status: Option<i32>,
    /// pip's words.
    #[serde(default)]
    pub said: String,
    /// What pip would install.
    #[serde(default)]
    pub items: Vec<Item>,
    /// The same of a pip without reports, older than 22.2: file names only.
    #[serde(default)]
    pub files: Vec<String>,
    /// uv's answer, where the image has uv.
    pub uv: Option<Uv>,
}

/// A package that pip would install.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Item {
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// Where pip takes it from.
    pub url: String,
    /// A direct URL, no index.
    pub direct: bool,
    /// Asked for by name.
    pub requested: bool,
    /// Its dependencies.
    #[serde(default)]
    pub requires: Vec<String>,
}

/// uv's answer.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Uv {
    /// Exit status.
    pub status: i32,
    /// `name==version` lines, each followed by `# from INDEX`.
    pub out: String,
    /// Its words.
    pub said: String,
}

impl Facts {
    /// Reads the probe's output.
    pub fn read(output: &[u8]) -> Result<Facts> {
        serde_json::from_slice(output).doing(|| "the Python of the image gave no answer that can be read")
    }

    /// The values for markers.
    pub fn markers(&self) -> Result<MarkerEnvironment> {
        let value = |name: &str| self.environment.get(name).map_or("", String::as_str);
        let builder = MarkerEnvironmentBuilder {
            implementation_name: value("implementation_name"),
            implementation_version: value("implementation_version"),
            os_name: value("os_name"),
            platform_machine: value("platform_machine"),
            platform_python_implementation: value("platform_python_implementation"),
            platform_release: value("platform_release"),
            platform_system: value("platform_system"),
            platform_version: value("platform_version"),
            python_full_version: value("python_full_version"),
            python_version: value("python_version"),
            sys_platform: value("sys_platform"),
        };
        match MarkerEnvironment::try_from(builder) {
            Ok(markers) => Ok(markers),
            Err(error) => {
                refuse(Fault::new("the Python of the image has no version that can be read").because(error.to_string()))
            }
        }
    }

    /// Python's version.
    pub fn python_version(&self) -> Result<Version> {
        self.python.parse().map_err(|_| Fault::new(format!("{:?} is no version of Python", self.python)).into())
    }

    /// uv's picks: version and index by name.
    pub fn uv_picks(&self) -> BTreeMap<String, (String, Option<String>)> {
        let mut picks = BTreeMap::new();
        let mut last = None;
        for line in self.uv.iter().filter(|uv| uv.status == 0).flat_map(|uv| uv.out.lines()) {
            if let Some(index) = line.trim().strip_prefix("# from ") {
                if let Some((_, from)) = last.as_ref().and_then(|name: &String| picks.get_mut(name)) {
                    *from = Some(index.to_owned());
                }
            } else if let Some((name, version)) = line.split_once("==") {
                let name = crate::pypi::distribution::normalized(name.split('[').next().unwrap_or(name).trim());
                let version = version.split([' ', ';']).next().unwrap_or(version).to_owned();
                picks.insert(name.clone(), (version, None));
                last = Some(name);
            }
        }
        picks
    }
}

/// The versions that it allows; all, where it names none or a URL.
pub fn versions(wish: &Wish) -> VersionSpecifiers {
    match &wish.version_or_url {
        Some(VersionOrUrl::VersionSpecifier(versions)) => versions.clone(),
        _ => VersionSpecifiers::empty(),
    }
}

/// Whether it counts here, for somebody with these extras.
pub fn applies(wish: &Wish, markers: &MarkerEnvironment, extras: &[ExtraName]) -> bool {
    wish.evaluate_markers(markers, extras)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_of_uv_is_read_with_its_indexes() {
        let out = "flask==3.1.3\n    # from file:///tmp/pypi\nrequests[socks]==2.0 ; python_version > '3'\n";
        let facts = Facts { uv: Some(Uv { status: 0, out: out.into(), said: String::new() }), ..Facts::default() };
        let picks = facts.uv_picks();
        assert_eq!(picks["flask"], ("3.1.3".to_owned(), Some("file:///tmp/pypi".to_owned())));
        assert_eq!(picks["requests"], ("2.0".to_owned(), None));
    }
}
