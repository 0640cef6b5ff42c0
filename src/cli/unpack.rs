//! `dropcloth unpack` and `dropcloth rm`: images with owners of their own, for an ordinary user.

use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;

use super::common::say;
use crate::changes::discard::remove_tree;
use crate::error::{Doing, Fault, Result, refuse};
use crate::host::caller::Caller;
use crate::sys::{fs, mount};

#[expect(clippy::disallowed_methods, reason = "tar knows every format of a tarball; no step runs meanwhile")]
/// Unpacks a tarball into the new directory `directory`, owners by number, through the id map.
pub fn unpack(tarball: &Path, directory: &Path) -> Result<u8> {
    let doing = || format!("cannot unpack {} into {}", tarball.display(), directory.display());
    check(tarball, directory)?;
    let mut name = directory.file_name().unwrap_or_default().to_owned();
    name.push(".unpacking");
    let partial = directory.with_file_name(name);
    std::fs::create_dir(&partial)
        .doing(doing)
        .hint(|| format!("Remove what an interrupted unpack left: `dropcloth rm {}`.", partial.display()))?;
    let mut command = Command::new("tar");
    command.args(["--extract", "--numeric-owner", "--same-owner", "--preserve-permissions", "--sparse"]);
    command.args(["--acls", "--xattrs", "--xattrs-include=*", "--file"]).arg(tarball).arg("--directory").arg(&partial);
    if Caller::get().maps.is_some() {
        // mknod(2) is for root of the machine; a step gets its devices from dropcloth.
        command.args(["--exclude=./dev/*", "--exclude=dev/*"]);
    }
    let result = command.status().doing(doing).hint(|| "Install GNU tar: `apt-get install tar`.");
    let unpacked = match result {
        Ok(status) if status.success() => std::fs::rename(&partial, directory).doing(doing),
        Ok(status) => refuse(
            Fault::new(doing())
                .because(format!("tar ended with {status}"))
                .hint("Look at what tar said above. An owner outside the id map needs more subordinate ids in /etc/subuid and /etc/subgid."),
        ),
        Err(error) => Err(error),
    };
    if let Err(error) = unpacked {
        remove(&partial)?;
        return Err(error);
    }
    say(&format!("unpacked {} into {}", tarball.display(), directory.display()));
    Ok(0)
}

fn check(tarball: &Path, directory: &Path) -> Result<()> {
    if !tarball.is_file() {
        return refuse(
            Fault::new(format!("there is no tarball {}", tarball.display()))
                .hint("Name a file that tar can read: rootfs.tar, rootfs.tar.gz, rootfs.tar.zst."),
        );
    }
    let there = std::fs::symlink_metadata(directory).is_ok();
    let empty = std::fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none());
    if there && !empty {
        return refuse(
            Fault::new(format!("{} is there already", directory.display()))
                .hint(format!("Name a new directory, or remove this one with `dropcloth rm {}`.", directory.display())),
        );
    }
    Ok(())
}

/// Removes an image, whoever its files belong to.
pub fn rm(directories: &[std::path::PathBuf]) -> Result<u8> {
    for directory in directories {
        remove(directory)?;
    }
    Ok(0)
}

fn remove(directory: &Path) -> Result<()> {
    let doing = || format!("cannot remove {}", directory.display());
    let stat = std::fs::symlink_metadata(directory)
        .doing(doing)
        .hint(|| "Name an image that is there: `ls` shows what the directory has.")?;
    if !stat.is_dir() {
        return refuse(
            Fault::new(format!("{} is not a directory", directory.display()))
                .hint("Remove a file or a link with rm(1): dropcloth rm removes images."),
        );
    }
    let path = std::fs::canonicalize(directory).doing(doing)?;
    let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
        return refuse(Fault::new("the root directory of this machine cannot be removed"));
    };
    let above = mount::open_path(above).doing(doing)?;
    let above = fs::open_dir(above.as_fd(), b".").doing(doing)?;
    let image = fs::open_dir(above.as_fd(), name.as_bytes()).doing(doing)?;
    if !fs::try_lock(image.as_fd(), true).doing(doing)? {
        return refuse(
            Fault::new(format!("{} is in use by another run of dropcloth", path.display()))
                .hint("Wait until that run has ended: `dropcloth list` shows it."),
        );
    }
    remove_tree(above.as_fd(), name.as_bytes())
        .doing(doing)
        .hint(|| format!("If something is mounted below it: `findmnt -R {}`.", path.display()))
}
