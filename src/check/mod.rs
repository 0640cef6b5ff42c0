//! `dropcloth check`: which index serves what, asked of the image's own pip and held against the pages of every index.

pub mod ahead;
pub mod closure;
pub mod compare;
pub mod locked;
pub mod probe;
pub mod text;

use serde::Serialize;

use crate::pypi::requirements::Escape;

/// A package that would be installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Normalized name.
    pub name: String,
    /// Version that pip takes.
    pub version: String,
    /// File name.
    pub file: String,
    /// `wheel` or `sdist`.
    pub kind: &'static str,
    /// Index that serves it; none: a direct URL, or an index that cannot be asked from here.
    pub index: Option<String>,
    /// Asked for by name; else a dependency.
    pub requested: bool,
    /// What has to be there to build it.
    pub build_requires: Vec<String>,
    /// Other configured indexes that have the name too.
    pub also: Vec<Offer>,
    /// What uv takes, where it is something else.
    pub uv: Option<Offer>,
    /// Other indexes where a file of the same name has another hash.
    pub conflicts: Vec<String>,
}

/// The best that an index has for a requirement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Offer {
    /// The index.
    pub index: String,
    /// Its best version that satisfies everything asked of it; none: it has none.
    pub version: Option<String>,
}

/// Something that the mirrors do not have.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Missing {
    /// The requirement (PEP 508).
    pub requirement: String,
    /// Who asks for it, outermost first; empty: the user.
    pub needed_by: Vec<String>,
    /// Needed to build a source distribution only.
    pub build: bool,
    /// What the mirrors have instead.
    pub why: String,
}

/// Everything that was found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Version of this report's form.
    pub version: u32,
    /// Python's version.
    pub python: String,
    /// pip's version, where the image has it.
    pub pip: Option<String>,
    /// The indexes in order.
    pub indexes: Vec<String>,
    /// Packages.
    pub packages: Vec<Row>,
    /// What the mirrors lack.
    pub missing: Vec<Missing>,
    /// Lines that lead past the mirrors.
    pub escapes: Vec<Escape>,
    /// What could not be asked or read.
    pub notes: Vec<String>,
    /// pip's own words where it failed.
    pub pip_failed: Option<String>,
    /// uv's own words where it failed.
    pub uv_failed: Option<String>,
}

impl Report {
    /// Packages of which pip and uv take different ones: a name that somebody else could take over.
    pub fn confused(&self) -> impl Iterator<Item = &Row> {
        self.packages.iter().filter(|row| row.uv.is_some() || !row.conflicts.is_empty())
    }

    /// Escapes that nothing in the configuration holds.
    pub fn open_escapes(&self) -> impl Iterator<Item = &Escape> {
        self.escapes.iter().filter(|escape| escape.held_by.is_none())
    }

    /// Whether an installation would get everything from the mirrors, and the same with every installer.
    pub fn is_good(&self, confusion_fails: bool) -> bool {
        let confused = confusion_fails && self.confused().next().is_some();
        self.missing.is_empty() && self.pip_failed.is_none() && self.open_escapes().next().is_none() && !confused
    }
}
