//! Secrets of a step: files in memory, for the step's user only, gone with its mount namespace.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use crate::error::{Doing, Fault, Result, refuse};
use crate::image::account::Account;
use crate::settings::Settings;
use crate::sys::fs;
use crate::sys::mount::{self, Attr, FsContext};

/// More is no secret.
const LARGEST: u64 = 1024 * 1024;

/// A secret, read once: its source may be a pipe.
#[derive(Clone)]
pub struct Secret {
    /// Its file name.
    pub id: String,
    /// Its contents.
    pub contents: Vec<u8>,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secret({}, {} bytes)", self.id, self.contents.len())
    }
}

/// Reads the secrets that the settings name.
pub fn read(settings: &Settings) -> Result<Vec<Secret>> {
    settings
        .secret
        .value
        .iter()
        .map(|s| Ok(Secret { id: s.id.clone(), contents: contents(&s.id, &s.source)? }))
        .collect()
}

fn contents(id: &str, source: &Path) -> Result<Vec<u8>> {
    use std::io::Read;
    let doing = || format!("cannot read the secret {id} from {}", source.display());
    let mut contents = Vec::new();
    std::fs::File::open(source).doing(doing)?.take(LARGEST + 1).read_to_end(&mut contents).doing(doing)?;
    if contents.len() as u64 > LARGEST {
        return refuse(
            Fault::new(format!("the secret {id} in {} has more than 1 MiB", source.display()))
                .hint(format!("Bind a large file instead: --bind {}:/run/{id}:ro.", source.display())),
        );
    }
    Ok(contents)
}

/// A tmpfs with the secrets in it, read-only, not attached yet.
pub fn mount(secrets: &[Secret], account: &Account) -> Result<OwnedFd> {
    let context = FsContext::open("tmpfs")?;
    context.set("source", "secrets")?;
    context.set("mode", "0500")?;
    // KERNEL(6.4): without it a secret may be swapped out, as any process's memory may.
    let _ = context.flag("noswap");
    let attributes = Attr::MOUNT_ATTR_NODEV | Attr::MOUNT_ATTR_NOSUID | Attr::MOUNT_ATTR_NOEXEC;
    let mounted = context.mount(attributes)?;
    let directory = fs::open_dir(mounted.as_fd(), b".")?;
    for secret in secrets {
        let file = fs::create(directory.as_fd(), secret.id.as_bytes(), 0o400)?;
        fs::chown(directory.as_fd(), secret.id.as_bytes(), account.uid, account.gid)?;
        std::fs::File::from(file).write_all(&secret.contents)?;
    }
    fs::chown(directory.as_fd(), b".", account.uid, account.gid)?;
    drop(directory);
    mount::set_attributes(mounted.as_fd(), attributes | Attr::MOUNT_ATTR_RDONLY, false)?;
    Ok(mounted)
}
