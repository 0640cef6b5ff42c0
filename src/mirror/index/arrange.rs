//! Every wheel and sdist of a folder to its place, `NAME/FILE`.

use std::collections::BTreeSet;
use std::fs::{self, DirEntry};
use std::path::{Path, PathBuf};

use crate::error::{Doing, Fault, Result, refuse};
use crate::mirror::artifact;
use crate::pypi::distribution::{self, normalized};

/// What a folder holds once it is arranged.
#[derive(Debug, Default)]
pub struct Arranged {
    /// Project and file name, sorted.
    pub files: BTreeSet<(String, String)>,
    /// Files that were moved.
    pub moved: usize,
    /// Folders that files were taken from: their pages are nobody's any more, and may know things of the files.
    pub left: BTreeSet<PathBuf>,
    /// What was left alone, and why.
    pub notes: Vec<String>,
}

/// Moves every distribution in `directory`, or in a folder in it, to the folder of its normalized name. Deeper folders are not
/// looked at: somebody may name his home.
pub fn arrange(directory: &Path) -> Result<Arranged> {
    let mut arranged = Arranged::default();
    let mut files = Vec::new();
    let mut folders = Vec::new();
    for (name, entry) in entries(directory)? {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => folders.push(name),
            Ok(_) => files.push((None, name)),
            Err(_) => {}
        }
    }
    for folder in folders {
        let inside = entries(&directory.join(&folder))?;
        files.extend(inside.into_iter().map(|(name, _)| (Some(folder.clone()), name)));
    }
    for (folder, name) in files {
        arranged.place(directory, folder.as_deref(), &name)?;
    }
    Ok(arranged)
}

/// What is in a folder, by name; hidden entries are not for installers.
fn entries(directory: &Path) -> Result<Vec<(String, DirEntry)>> {
    let doing = || format!("cannot read {}", directory.display());
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).doing(doing)? {
        let entry = entry.doing(doing)?;
        // No name of a distribution is anything but UTF-8.
        let Ok(name) = entry.file_name().into_string() else { continue };
        if !name.starts_with('.') {
            found.push((name, entry));
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}

impl Arranged {
    fn place(&mut self, directory: &Path, folder: Option<&str>, name: &str) -> Result<()> {
        // The folder says where the name of an old sdist ends.
        let by_folder = folder.and_then(|folder| distribution::parse(name, Some(folder)));
        let Some(file) = by_folder.or_else(|| distribution::parse(name, None)) else { return Ok(()) };
        let here = folder.map_or_else(|| directory.to_owned(), |folder| directory.join(folder));
        let path = here.join(name);
        if !is_ours(directory, &path) {
            self.notes.push(format!("{} is no file of this mirror: it was left out", path.display()));
            return Ok(());
        }
        if folder == Some(file.name.as_str()) {
            self.files.insert((file.name, name.to_owned()));
            return Ok(());
        }
        if path.is_symlink() {
            // A flat folder of links into the tree is a mirror too, and a link that is moved leads elsewhere.
            return Ok(());
        }
        let target = directory.join(&file.name).join(name);
        self.move_to(&path, &target)?;
        // It is made again beside its wheel.
        let _ = fs::remove_file(path.with_file_name(format!("{name}.metadata")));
        if folder.is_some() {
            self.left.insert(here);
        }
        self.files.insert((file.name, name.to_owned()));
        Ok(())
    }

    fn move_to(&mut self, from: &Path, to: &Path) -> Result<()> {
        let doing = || format!("cannot move {} to {}", from.display(), to.display());
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder).doing(doing)?;
        }
        if fs::symlink_metadata(to).is_ok() {
            if artifact::sha256(from)? != artifact::sha256(to)? {
                return refuse(
                    Fault::new(doing())
                        .because("another file of that name is there, with other contents")
                        .hint("Look which of the two is right, and remove the other one."),
                );
            }
            return fs::remove_file(from).doing(|| format!("cannot remove the second copy {}", from.display()));
        }
        fs::rename(from, to)
            .doing(doing)
            .hint(|| "The folder has to be yours to write: `ls -ld` shows whose it is.")?;
        self.moved += 1;
        Ok(())
    }
}

/// A regular file, or a link to one in the mirror: a link that leads out of it leads nowhere once the mirror is bound
/// somewhere else.
fn is_ours(directory: &Path, path: &Path) -> bool {
    let Ok(data) = fs::symlink_metadata(path) else { return false };
    if !data.is_symlink() {
        return data.is_file();
    }
    let (Ok(base), Ok(real)) = (directory.canonicalize(), path.canonicalize()) else { return false };
    real.starts_with(base) && real.is_file()
}

/// Removes the pages of a folder whose files went elsewhere, and the folder when nothing else is in it.
pub fn clear(folder: &Path) {
    for page in ["index.html", "index.json"] {
        let _ = fs::remove_file(folder.join(page));
    }
    let _ = fs::remove_dir(folder);
}

/// Whether `name` is that of a project's folder.
pub fn is_project(name: &str) -> bool {
    !name.is_empty() && normalized(name) == name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arranged(files: &[&str]) -> (tempfile::TempDir, Result<Arranged>) {
        let directory = tempfile::tempdir().unwrap();
        for file in files {
            let path = directory.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file).unwrap();
        }
        let arranged = arrange(directory.path());
        (directory, arranged)
    }

    #[test]
    fn flat_files_trees_and_misnamed_folders_become_one_tree() {
        let (directory, arranged) = arranged(&[
            "Flask-1-py3-none-any.whl",
            "docopt/docopt-1.tar.gz",
            "DC_Lib/dc_lib-1-py3-none-any.whl",
            "wheels/six-1-py3-none-any.whl",
            "backports-ssl-3/backports-ssl-3-5.tar.gz",
            ".hidden/x-1.tar.gz",
            "deep/er/y-1.tar.gz",
            "README.md",
        ]);
        let arranged = arranged.unwrap();
        let files: Vec<String> = arranged.files.iter().map(|(project, file)| format!("{project}/{file}")).collect();
        let expected = [
            "backports-ssl-3/backports-ssl-3-5.tar.gz",
            "dc-lib/dc_lib-1-py3-none-any.whl",
            "docopt/docopt-1.tar.gz",
            "flask/Flask-1-py3-none-any.whl",
            "six/six-1-py3-none-any.whl",
        ];
        assert_eq!((files, arranged.moved), (expected.map(str::to_owned).to_vec(), 3));
        assert!(expected.iter().all(|file| directory.path().join(file).is_file()));
        assert!(directory.path().join("deep/er/y-1.tar.gz").is_file());
    }

    #[test]
    fn a_second_copy_goes_and_a_second_file_of_the_name_is_refused() {
        let (_kept, twice) = arranged(&["a-1.tar.gz", "a/a-1.tar.gz"]);
        assert!(twice.unwrap_err().to_string().contains("other contents"));
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("a")).unwrap();
        for name in ["a-1.tar.gz", "a/a-1.tar.gz"] {
            fs::write(directory.path().join(name), "same").unwrap();
        }
        assert_eq!(arrange(directory.path()).unwrap().files.len(), 1);
        assert!(!directory.path().join("a-1.tar.gz").exists());
    }

    #[test]
    fn links_stay_and_those_that_lead_out_of_the_mirror_are_left_out() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("b-1.tar.gz"), "x").unwrap();
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("a")).unwrap();
        fs::write(directory.path().join("a/a-1.tar.gz"), "x").unwrap();
        std::os::unix::fs::symlink("a/a-1.tar.gz", directory.path().join("a-1.tar.gz")).unwrap();
        std::os::unix::fs::symlink(outside.path().join("b-1.tar.gz"), directory.path().join("a/b-1.tar.gz")).unwrap();
        let arranged = arrange(directory.path()).unwrap();
        assert_eq!((arranged.files.len(), arranged.moved, arranged.notes.len()), (1, 0, 1));
        assert!(directory.path().join("a-1.tar.gz").is_symlink());
    }
}
