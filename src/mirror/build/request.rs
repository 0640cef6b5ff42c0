//! What is asked for, as files that the image's pip can read: includes written out, since what they name is not in the image.

use std::path::Path;

use crate::error::{Doing, Fault, Result, refuse};
use crate::pypi::distribution::{self, normalized};
use crate::pypi::lock::{self, Locked};
use crate::pypi::requirements::{self, What};

/// Includes deeper than this go round in a circle.
const DEEPEST: usize = 16;

/// What is to be downloaded.
#[derive(Debug, Default)]
pub struct Request {
    /// Name and text of the files that pip reads.
    pub files: Vec<(String, String)>,
    /// The files among them that are each resolved by themselves, and whether with their dependencies: a lock names its own.
    pub sets: Vec<(String, bool)>,
    /// What was left out, and why.
    pub notes: Vec<String>,
}

impl Request {
    /// Adds requirements and files of them, which are resolved together.
    pub fn requirements(&mut self, named: &[String], files: &[impl AsRef<Path>]) -> Result<()> {
        let mut text: String = named.iter().map(|requirement| format!("{requirement}\n")).collect();
        for file in files {
            self.inline(file.as_ref(), &mut text, 0)?;
        }
        if !text.trim().is_empty() {
            let name = self.add(text);
            self.sets.push((name, true));
        }
        Ok(())
    }

    /// Adds a lock file: of each package the files that suit `tags`, by hash where the lock has one.
    pub fn lock(&mut self, file: &Path, tags: &[String]) -> Result<()> {
        let text = read(file)?;
        let locked = lock::parse(&text)
            .map_err(|why| Fault::new(format!("cannot read the lock file {}", file.display())).because(why))?;
        let mut rounds: Vec<Vec<(String, String)>> = Vec::new();
        for package in &locked {
            if let Some(direct) = package.direct.as_ref().filter(|direct| requirements::is_remote(direct)) {
                self.notes.push(format!(
                    "{}:{}: {} is not from an index ({direct}), and was left out",
                    file.display(),
                    package.line,
                    package.name
                ));
            }
            let Some(line) = locked_line(package, tags) else { continue };
            // A lock for several platforms may have several versions of a name, and pip takes one at a time.
            let name = normalized(&package.name);
            match rounds.iter_mut().find(|round| round.iter().all(|(other, _)| *other != name)) {
                Some(round) => round.push((name, line)),
                None => rounds.push(vec![(name, line)]),
            }
        }
        for round in rounds {
            let name = self.add(round.into_iter().map(|(_, line)| line).collect());
            self.sets.push((name, false));
        }
        Ok(())
    }

    /// The requirements of the sets, whether these name their dependencies themselves, and what only constrains.
    pub fn named(&self) -> (Vec<String>, bool, Vec<String>) {
        let (mut named, mut constraints) = (Vec::new(), Vec::new());
        for (name, text) in &self.files {
            let of_set = self.sets.iter().any(|(set, _)| set == name);
            let into = if of_set { &mut named } else { &mut constraints };
            let lines = requirements::parse(text).into_iter();
            into.extend(lines.filter_map(|line| if let What::Named(text) = line.what { Some(text) } else { None }));
        }
        (named, self.sets.iter().all(|(_, dependencies)| !dependencies), constraints)
    }

    /// Makes it another request by what else it hangs on.
    pub fn depends_on(&mut self, what: &str, text: String) {
        self.files.push((what.to_owned(), text));
    }

    fn add(&mut self, text: String) -> String {
        let name = format!("requirements-{}.txt", self.files.len());
        self.files.push((name.clone(), text));
        name
    }

    fn inline(&mut self, file: &Path, out: &mut String, depth: usize) -> Result<()> {
        if depth > DEEPEST {
            return refuse(Fault::new(format!("{} is included in a circle", file.display())));
        }
        let text = read(file)?;
        let beside = |name: &str| file.parent().unwrap_or(Path::new("")).join(name);
        for (number, line) in text.lines().enumerate() {
            match requirements::parse(line).pop().map(|line| line.what) {
                Some(What::Include(other)) if !requirements::is_remote(&other) => {
                    self.inline(&beside(&other), out, depth + 1)?;
                }
                Some(What::Constraints(other)) if !requirements::is_remote(&other) => {
                    let mut constraints = String::new();
                    self.inline(&beside(&other), &mut constraints, depth + 1)?;
                    let name = self.add(constraints);
                    out.push_str(&format!("-c {name}\n"));
                }
                Some(What::Url(path)) if !requirements::is_remote(&path) => {
                    let place = format!("{}:{}", file.display(), number + 1);
                    self.notes.push(format!("{place}: {path} is a path, and was left out"));
                }
                _ => {
                    out.push_str(line);
                    out.push('\n');
                }
            }
        }
        Ok(())
    }
}

fn read(file: &Path) -> Result<String> {
    std::fs::read_to_string(file)
        .doing(|| format!("cannot read {}", file.display()))
        .hint(|| "Name a file of requirements of this machine.")
}

/// `name==version` with the hashes of what suits; `None`: the package is not from an index, or not for this Python.
fn locked_line(package: &Locked, tags: &[String]) -> Option<String> {
    let version = package.version.as_ref().filter(|_| package.direct.is_none())?;
    let name = normalized(&package.name);
    let suits = |file: &&lock::File| {
        distribution::parse(&file.name, Some(&name)).is_some_and(|d| distribution::rank(&d, tags).is_some())
    };
    if !package.files.is_empty() && !package.files.iter().any(|file| suits(&file)) {
        return None;
    }
    let hashes: Option<Vec<&String>> = package.files.iter().filter(suits).map(|file| file.sha256.as_ref()).collect();
    let hashes = hashes.unwrap_or_default().into_iter().map(|hash| format!(" --hash=sha256:{hash}"));
    Some(format!("{name}=={version}{}\n", hashes.collect::<String>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn includes_are_written_out_and_what_is_only_here_is_left_out() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
        write("r.txt", "-r more.txt\nflask==3.0 \\\n    --hash=sha256:00\n-c c.txt\n./local\n--pre\n");
        write("more.txt", "click\n");
        write("c.txt", "click<9\n");
        write("circle.txt", "-r circle.txt\n");
        let mut request = Request::default();
        request.requirements(&["six".to_owned()], &[directory.path().join("r.txt")]).unwrap();
        let expected = [
            ("requirements-0.txt", "click<9\n"),
            ("requirements-1.txt", "six\nclick\nflask==3.0 \\\n    --hash=sha256:00\n-c requirements-0.txt\n--pre\n"),
        ];
        assert_eq!(request.files, expected.map(|(name, text)| (name.to_owned(), text.to_owned())));
        assert_eq!(request.sets, [("requirements-1.txt".to_owned(), true)]);
        assert!(request.notes[0].ends_with("r.txt:5: ./local is a path, and was left out"), "{:?}", request.notes);
        assert!(request.requirements(&[], &[directory.path().join("circle.txt")]).is_err());
    }

    #[test]
    fn a_lock_is_asked_for_what_suits_one_version_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("uv.lock");
        let entry = |name: &str, version: &str, wheel: &str| {
            format!(
                "[[package]]\nname = \"{name}\"\nversion = \"{version}\"\nwheels = [{{ url = \"https://x/{name}-{version}-{wheel}.whl\", hash = \"sha256:{version}\" }}]\n"
            )
        };
        let text = [
            entry("a", "1", "py3-none-any"),
            entry("a", "2", "py3-none-any"),
            entry("b", "1", "cp39-cp39-win32"),
            "[[package]]\nname = \"g\"\nversion = \"1\"\nsource = { git = \"https://g/g.git\" }\n".to_owned(),
        ];
        std::fs::write(&file, text.concat()).unwrap();
        let mut request = Request::default();
        request.lock(&file, &["py3-none-any".to_owned()]).unwrap();
        let texts: Vec<&str> = request.files.iter().map(|(_, text)| text.as_str()).collect();
        assert_eq!(texts, ["a==1 --hash=sha256:1\n", "a==2 --hash=sha256:2\n"]);
        assert!(request.sets.iter().all(|(_, dependencies)| !dependencies));
        assert_eq!(request.notes.len(), 1);
    }
}
