//! What must not be found in a committed file: everything of this run that a step can see and an image must not know.

use std::path::Path;

use super::{Mount, Plan, Storage};
use crate::pypi;

/// A trace: what it is, in words, and its bytes.
pub type Trace = (String, Vec<u8>);

/// The traces of a run. Contents of overrides and secrets come later: they are not part of the plan.
pub fn of(plan: &Plan) -> Vec<Trace> {
    let mut found = Vec::new();
    if let Some(python) = &plan.python {
        found.push(trace("the mirror's place in the step", pypi::MIRROR_MOUNT.as_bytes()));
        for index in python.indexes.iter() {
            found.extend(credentials(&index.url));
            // One with credentials is found by them, which says more.
            if loopback(&index.url) && credentials(&index.url).is_empty() {
                let url = index.url.trim_end_matches('/');
                found.push(trace("the URL of a mirror on this machine", url.as_bytes()));
            }
        }
        found.push(trace("dropcloth's own directory in the step", pypi::OWN_DIRECTORY.as_bytes()));
    }
    found.extend(host_path("the image's place on this machine", &plan.image));
    if let Storage::Beside(path) | Storage::Elsewhere(path) = &plan.storage {
        found.extend(host_path("the transaction's place on this machine", path));
    }
    for wish in &plan.mounts {
        if let Mount::Bind { source, .. } | Mount::Mirror { source, .. } | Mount::Cache { source, .. } = &wish.mount
            && source.as_path() != Path::new(&wish.at.to_string())
        {
            found.extend(host_path("a path of this machine", source));
        }
    }
    found
}

fn trace(what: &str, text: &[u8]) -> Trace {
    (what.to_owned(), text.to_vec())
}

/// A path like /mnt stands in many files by right.
fn host_path(what: &str, path: &Path) -> Option<Trace> {
    use std::os::unix::ffi::OsStrExt;
    let components = path.components().count() - usize::from(path.is_absolute());
    (components >= 2).then(|| trace(what, path.as_os_str().as_bytes()))
}

/// `user:password@`, and the password alone.
fn credentials(url: &str) -> Vec<Trace> {
    let authority =
        url.split_once("://").map_or("", |(_, rest)| rest).split(['/', '?', '#']).next().unwrap_or_default();
    let Some((user, _)) = authority.rsplit_once('@') else { return Vec::new() };
    let whole = trace("the credentials of a mirror's URL", format!("{user}@").as_bytes());
    let password = user.split_once(':').map(|(_, word)| trace("the password of a mirror's URL", word.as_bytes()));
    std::iter::once(whole).chain(password).collect()
}

fn loopback(url: &str) -> bool {
    let authority =
        url.split_once("://").map_or("", |(_, rest)| rest).split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    let host = host
        .strip_prefix('[')
        .and_then(|h| h.split(']').next())
        .unwrap_or_else(|| host.split(':').next().unwrap_or_default());
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_found_whole_and_as_the_password() {
        let table: [(&str, &[&str]); 4] = [
            ("https://me:hunter22@pypi.example/simple", &["me:hunter22@", "hunter22"]),
            ("https://token@pypi.example/simple", &["token@"]),
            ("https://pypi.example/@scope", &[]),
            ("file:///tmp/pypi", &[]),
        ];
        for (url, expected) in table {
            let found: Vec<_> =
                credentials(url).into_iter().map(|(_, text)| String::from_utf8(text).unwrap()).collect();
            assert_eq!(found, expected, "{url}");
        }
    }

    #[test]
    fn a_loopback_index_is_known_by_name_and_number() {
        for url in ["http://localhost/x", "http://127.0.0.1:3141/root", "http://u:p@127.1.2.3/", "http://[::1]:80/"] {
            assert!(loopback(url), "{url}");
        }
        for url in ["http://pypi.example/localhost", "https://10.0.0.1/", "file:///tmp/pypi"] {
            assert!(!loopback(url), "{url}");
        }
    }

    #[test]
    fn a_path_that_many_files_name_is_no_needle() {
        assert_eq!(host_path("x", Path::new("/mnt")), None);
        assert!(host_path("x", Path::new("/srv/build")).is_some());
    }
}
