//! What a tool makes of all the files and variables that it reads: which value holds, and which lost against it.
//!
//! Pure: the files come as a map, read by whoever asks. docs/python.md says which tool reads what.

pub mod distutils;
pub mod ini;
pub mod pdm;
pub mod pip;
pub mod poetry;
pub mod uv;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// The tools whose settings can be explained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Tool {
    /// pip, and what calls it: build, hatch, tox, virtualenv.
    Pip,
    /// easy_install, `setup.py install`, `setup_requires`.
    Distutils,
    /// uv.
    Uv,
    /// pdm.
    Pdm,
    /// poetry.
    Poetry,
}

impl Tool {
    /// All of them.
    pub const ALL: [Tool; 5] = [Tool::Pip, Tool::Distutils, Tool::Uv, Tool::Pdm, Tool::Poetry];

    /// As people call it.
    pub fn name(self) -> &'static str {
        match self {
            Tool::Pip => "pip",
            Tool::Distutils => "distutils",
            Tool::Uv => "uv",
            Tool::Pdm => "pdm",
            Tool::Poetry => "poetry",
        }
    }
}

/// What a tool sees: files by absolute path, variables, and where it stands.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// Texts of the files that exist.
    pub files: BTreeMap<PathBuf, String>,
    /// Environment.
    pub environment: BTreeMap<String, String>,
    /// Home directory.
    pub home: PathBuf,
    /// `sys.prefix` of the Python.
    pub prefix: PathBuf,
    /// Working directory.
    pub workdir: PathBuf,
    /// Directories in which distutils looks for `distutils.cfg`.
    pub distutils: Vec<PathBuf>,
}

/// One place that says something about a setting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Said {
    /// The values, in order; none: the place clears what lower ones say.
    pub values: Vec<String>,
    /// File with its section, or variable.
    pub by: String,
}

/// A setting with its value and everything that lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// The tool's own name for it.
    pub key: &'static str,
    /// What holds, highest rank first: one place, or several where the tool joins lists.
    pub holds: Vec<Said>,
    /// What lost, highest rank first.
    pub lost: Vec<Said>,
}

impl Setting {
    /// From all that is said, lowest rank first: the last wins.
    fn last_wins(key: &'static str, mut said: Vec<Said>) -> Setting {
        said.reverse();
        let lost = said.split_off(1.min(said.len()));
        Setting { key, holds: said, lost }
    }

    /// What holds, as one list.
    pub fn values(&self) -> Vec<&str> {
        self.holds.iter().flat_map(|said| said.values.iter().map(String::as_str)).collect()
    }
}

/// Every file that `tool` might read.
pub fn paths(tool: Tool, view: &View) -> Vec<PathBuf> {
    match tool {
        Tool::Pip => pip::files(view),
        Tool::Distutils => distutils::files(view),
        Tool::Uv => uv::files(view),
        Tool::Pdm => pdm::files(view),
        Tool::Poetry => poetry::files(view),
    }
}

/// The settings of `tool` about indexes. A file that cannot be read as what it is comes back as a fault.
pub fn settings(tool: Tool, view: &View) -> (Vec<Setting>, Vec<String>) {
    let mut faults = Vec::new();
    let settings = match tool {
        Tool::Pip => pip::settings(view, &mut faults),
        Tool::Distutils => distutils::settings(view, &mut faults),
        Tool::Uv => uv::settings(view, &mut faults),
        Tool::Pdm => pdm::settings(view, &mut faults),
        Tool::Poetry => poetry::settings(view, &mut faults),
    };
    (settings, faults)
}

impl View {
    fn variable(&self, name: &str) -> Option<&str> {
        self.environment.get(name).map(String::as_str)
    }

    /// The directories of XDG_CONFIG_DIRS.
    fn config_dirs(&self) -> Vec<PathBuf> {
        let set = self.variable("XDG_CONFIG_DIRS").filter(|v| !v.is_empty()).unwrap_or("/etc/xdg");
        set.split(':').map(PathBuf::from).collect()
    }

    fn config_home(&self) -> PathBuf {
        let set = self.variable("XDG_CONFIG_HOME").filter(|v| !v.is_empty());
        set.map_or_else(|| self.home.join(".config"), PathBuf::from)
    }

    fn toml(&self, path: &Path, faults: &mut Vec<String>) -> Option<toml::Table> {
        let text = self.files.get(path)?;
        text.parse::<toml::Table>().map_err(|e| faults.push(format!("{}: {}", path.display(), e.message()))).ok()
    }
}

/// A value of a TOML file as the strings that it stands for.
fn strings(value: &toml::Value) -> Vec<String> {
    match value {
        toml::Value::String(text) => vec![text.clone()],
        toml::Value::Array(list) => list.iter().flat_map(strings).collect(),
        toml::Value::Table(table) => table.get("url").map(strings).unwrap_or_default(),
        other => vec![other.to_string()],
    }
}

/// `table.a.b` of a TOML file.
fn look_up<'a>(table: &'a toml::Table, path: &[&str]) -> Option<&'a toml::Value> {
    let (last, above) = path.split_last()?;
    above.iter().try_fold(table, |table, name| table.get(*name)?.as_table())?.get(*last)
}
