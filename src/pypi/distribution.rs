//! Names of distributions: projects (PEP 503), wheels (binary distribution format) and sdists (PEP 625 and what was before).

use pep440_rs::{Version, VersionSpecifiers};

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Source, to be built.
    Sdist,
    /// Built.
    Wheel,
}

/// A file name taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distribution {
    /// Normalized project name.
    pub name: String,
    /// Version.
    pub version: Version,
    /// Wheel or sdist.
    pub kind: Kind,
    /// Every tag of a wheel, compressed sets taken apart: `cp311-cp311-manylinux_2_28_x86_64`.
    pub tags: Vec<String>,
}

/// PEP 503: lower case, runs of `-`, `_` and `.` are one `-`.
pub fn normalized(name: &str) -> String {
    if is_normal(name) {
        return name.to_owned();
    }
    let mut out = String::with_capacity(name.len());
    for c in name.chars() {
        match c {
            '-' | '_' | '.' if out.ends_with('-') => {}
            '-' | '_' | '.' => out.push('-'),
            c => out.extend(c.to_lowercase()),
        }
    }
    out
}

/// Whether a name is one that [`normalized`] leaves as it is; not all of those that nobody has are known.
fn is_normal(name: &str) -> bool {
    let bytes = name.as_bytes();
    bytes.iter().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-')) && !bytes.windows(2).any(|two| two == b"--")
}

/// Takes a file name apart; `None` for what is no distribution. `project`, where it is known, tells where the name of an old
/// sdist ends: it may hold hyphens.
pub fn parse(file: &str, project: Option<&str>) -> Option<Distribution> {
    match file.strip_suffix(".whl") {
        Some(stem) => wheel(stem),
        None => sdist(file, project),
    }
}

fn wheel(stem: &str) -> Option<Distribution> {
    let parts: Vec<&str> = stem.split('-').collect();
    let (name, version, tags) = match parts[..] {
        [name, version, python, abi, platform] => (name, version, [python, abi, platform]),
        [name, version, build, python, abi, platform] if build.starts_with(|c: char| c.is_ascii_digit()) => {
            (name, version, [python, abi, platform])
        }
        _ => return None,
    };
    let [pythons, abis, platforms] = tags.map(|set| set.split('.').collect::<Vec<_>>());
    let mut all = Vec::new();
    for python in &pythons {
        for abi in &abis {
            all.extend(platforms.iter().map(|platform| format!("{python}-{abi}-{platform}")));
        }
    }
    // An underscore stands for the characters that a file name cannot have: `1.0_local` is `1.0+local`.
    let version = version.parse().or_else(|_| version.replacen('_', "+", 1).replace('_', ".").parse()).ok()?;
    Some(Distribution { name: normalized(name), version, kind: Kind::Wheel, tags: all })
}

/// Endings of sdists that pip takes.
const ENDINGS: [&str; 6] = [".tar.gz", ".zip", ".tgz", ".tar.bz2", ".tar.xz", ".tar"];

fn sdist(file: &str, project: Option<&str>) -> Option<Distribution> {
    let stem = ENDINGS.iter().find_map(|ending| file.strip_suffix(ending))?;
    let distribution =
        |name: &str, version| Distribution { name: normalized(name), version, kind: Kind::Sdist, tags: Vec::new() };
    let cuts = stem.match_indices('-').map(|(at, _)| (&stem[..at], &stem[at + 1..]));
    let mut readable = cuts.filter_map(|(name, version)| Some(distribution(name, version.parse().ok()?)));
    match project {
        Some(project) => readable.find(|d| d.name == normalized(project)),
        // From the right: a version has no hyphen but in old post releases, a name may.
        None => readable.next_back(),
    }
}

/// How well a wheel fits, 0 best, by the tags that a Python supports, best first; `None`: not at all. An sdist fits last.
pub fn rank(distribution: &Distribution, supported: &[String]) -> Option<usize> {
    match distribution.kind {
        Kind::Sdist => Some(supported.len()),
        Kind::Wheel => supported.iter().position(|tag| distribution.tags.contains(tag)),
    }
}

/// Whether a Python may install what requires `requires_python`. One that cannot be read forbids nothing, as for pip.
pub fn allows_python(requires_python: Option<&str>, python: &Version) -> bool {
    requires_python.is_none_or(|text| {
        text.parse::<VersionSpecifiers>().is_ok_and(|s| s.contains(python))
            || text.parse::<VersionSpecifiers>().is_err()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_normalized_as_pep_503_has_it() {
        for (name, expected) in [
            ("Flask", "flask"),
            ("zope.interface", "zope-interface"),
            ("a__b-.C", "a-b-c"),
            ("a--b", "a-b"),
            ("a-1", "a-1"),
            ("\u{c4}-b", "\u{e4}-b"),
        ] {
            assert_eq!(normalized(name), expected);
        }
    }

    #[test]
    fn wheels_and_sdists_of_all_ages_are_taken_apart() {
        let table = [
            ("flask-3.1.3-py3-none-any.whl", "flask", "3.1.3", Kind::Wheel),
            (
                "numpy-1.26.0-1-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
                "numpy",
                "1.26.0",
                Kind::Wheel,
            ),
            ("torch-2.0.1_cpu-cp311-cp311-linux_x86_64.whl", "torch", "2.0.1+cpu", Kind::Wheel),
            ("zope.interface-5.0.tar.gz", "zope-interface", "5.0", Kind::Sdist),
            ("some-old-name-1.2.zip", "some-old-name", "1.2", Kind::Sdist),
            ("x-1.0.post1.tar.bz2", "x", "1.0.post1", Kind::Sdist),
        ];
        for (file, name, version, kind) in table {
            let read = parse(file, None).unwrap_or_else(|| panic!("{file}"));
            assert_eq!((read.name.as_str(), read.version.to_string().as_str(), read.kind), (name, version, kind));
        }
        assert_eq!(parse("backports-ssl-3-5.tar.gz", Some("backports-ssl-3")).unwrap().version.to_string(), "5");
        for file in ["README.md", "x.tar.gz", "a-b-c.whl", "x-1.0-py3-none-any.whl.metadata"] {
            assert_eq!(parse(file, None), None, "{file}");
        }
    }

    #[test]
    fn a_wheel_is_as_good_as_its_best_tag_and_an_sdist_comes_last() {
        let supported = ["cp311-cp311-manylinux_2_36_x86_64", "cp311-abi3-manylinux_2_36_x86_64", "py3-none-any"];
        let supported = supported.map(str::to_owned);
        let rank = |file: &str| rank(&parse(file, None).unwrap(), &supported);
        assert_eq!(rank("a-1-cp311-cp311-manylinux_2_17_x86_64.manylinux_2_36_x86_64.whl"), Some(0));
        assert_eq!(rank("a-1-py2.py3-none-any.whl"), Some(2));
        assert_eq!(rank("a-1.tar.gz"), Some(3));
        assert_eq!(rank("a-1-cp39-cp39-win_amd64.whl"), None);
    }

    #[test]
    fn a_python_is_allowed_unless_the_file_forbids_it() {
        let python: Version = "3.11.2".parse().unwrap();
        for (text, allowed) in [(Some(">=3.9"), true), (Some("<3.11"), false), (None, true), (Some("nonsense"), true)] {
            assert_eq!(allows_python(text, &python), allowed, "{text:?}");
        }
    }
}
