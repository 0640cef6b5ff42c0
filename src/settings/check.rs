//! What no source of settings may say: found in the merged settings, told all at once.

use std::path::Path;

use super::{Faults, Network, Settings};

/// Everything in `settings` that cannot be used or contradicts itself.
pub fn check(settings: &Settings, faults: &mut Faults) {
    let official = (!settings.official_index.value.is_empty()).then_some(&settings.official_index.value);
    for url in settings.indexes.value.iter().chain(official) {
        check_url(url, faults);
    }
    if let Some(wish) = &settings.serve.value {
        check_server(wish, settings.network.value == Some(Network::None), faults);
    }
    check_caches(settings, faults);
    let lay = settings.lay.value.iter().map(|l| ("--lay", &l.path));
    let bind = settings.bind.value.iter().map(|b| ("--bind", &b.target));
    let tmpfs = settings.tmpfs.value.iter().map(|t| ("--tmpfs", t));
    let cache = settings.caches.value.iter().filter_map(|c| Some(("--cache", c.target.as_ref()?)));
    let workdir = std::iter::once(("--workdir", &settings.workdir.value));
    for (flag, path) in lay.chain(bind).chain(tmpfs).chain(cache).chain(workdir) {
        check_inside(flag, path, faults);
    }
}

fn check_server(wish: &str, no_network: bool, faults: &mut Faults) {
    if wish.trim().is_empty() {
        let hint = "Write --serve devpi, or a command that listens on 127.0.0.1:$PORT.";
        faults.push(("--serve is empty".to_owned(), hint.to_owned()));
    }
    for url in wish.strip_prefix("devpi=").into_iter().flat_map(|urls| urls.split(',')) {
        check_url(url, faults);
    }
    if no_network {
        let hint = "Leave --network out, since with --offline every installer asks the server only, or use --network mirrors, which leads to the server and to no other host.";
        faults.push(("the step cannot reach the server of --serve with --network none".to_owned(), hint.to_owned()));
    }
}

/// Two of one name would be one directory at two places.
fn check_caches(settings: &Settings, faults: &mut Faults) {
    let caches = &settings.caches.value;
    for (place, cache) in caches.iter().enumerate() {
        if caches[..place].iter().any(|earlier| earlier.name == cache.name) {
            let hint = "Give each cache a name of its own, and leave one of the two out where they are the same.";
            faults.push((format!("--cache {} is there twice", cache.name), hint.to_owned()));
        }
    }
}

fn check_inside(flag: &str, path: &Path, faults: &mut Faults) {
    if crate::image::Inside::lexical(path).is_none() {
        faults.push((
            format!("{flag} {} has a .. in it", path.display()),
            "Write the absolute path inside the image without .. components.".to_owned(),
        ));
    } else if !path.is_absolute() {
        faults.push((
            format!("{flag} {} is not absolute", path.display()),
            format!("Write it from the root of the image: /{}.", path.display()),
        ));
    }
}

fn check_url(url: &str, faults: &mut Faults) {
    // A line break would write into pip.conf, where the URL stands.
    let clean = !url.chars().any(|c| c.is_whitespace() || c.is_control());
    if clean && is_index(url) {
        return;
    }
    let hint = match url.split_once("://") {
        _ if !clean => {
            "Remove the white space; several mirrors are several --index flags or DIB_PYPI_MIRROR_URL_* variables."
                .to_owned()
        }
        None if url.starts_with('/') => {
            format!("For a directory of this machine use --mirror {url}; inside the image it is file:///tmp/pypi.")
        }
        None => format!("Write the scheme: http://{url} or https://{url}."),
        Some(("http" | "https", _)) => {
            "Write a host behind the scheme, such as http://mirror.example/simple.".to_owned()
        }
        Some(_) => "Use a URL that begins with http://, https:// or file:///.".to_owned(),
    };
    faults.push((format!("the mirror URL {url:?} cannot be used"), hint));
}

/// `http` or `https` with a host, or `file` with an absolute path.
fn is_index(url: &str) -> bool {
    match url.split_once("://") {
        Some(("http" | "https", rest)) => {
            let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
            let host = authority.rsplit('@').next().unwrap_or_default();
            let odd = |c: char| !c.is_alphanumeric() && !"-._~:[]".contains(c);
            !host.is_empty() && !host.starts_with(':') && !host.contains(odd)
        }
        Some(("file", path)) => path.len() > 1 && path.starts_with('/'),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn faults(url: &str) -> Faults {
        let mut faults = Faults::new();
        check_url(url, &mut faults);
        faults
    }

    #[test]
    fn an_index_is_http_with_a_host_or_a_file_with_a_path() {
        let good = [
            "http://mirror/simple",
            "https://user:pass%40word@mirror.example:8443/simple/",
            "http://[::1]:3141/root/pypi/+simple/",
            "http://localhost",
            "file:///tmp/pypi",
        ];
        for url in good {
            assert_eq!(faults(url), [], "{url}");
        }
    }

    #[test]
    fn what_is_no_index_is_told_with_what_to_write() {
        let bad = [
            ("pypi.example/simple", "http://pypi.example/simple or https://pypi.example/simple"),
            ("/srv/pypi", "--mirror /srv/pypi"),
            ("ftp://mirror/", "begins with http://"),
            ("file://tmp/pypi", "file:///"),
            ("file:///", "file:///"),
            ("http://", "host"),
            ("http:///simple", "host"),
            ("http://:8080/simple", "host"),
            ("http://;x/simple", "host"),
            ("http://a/ http://b/", "several --index"),
            ("http://a/\n[install]", "white space"),
        ];
        for (url, words) in bad {
            let faults = faults(url);
            assert_eq!(faults.len(), 1, "{url:?}");
            assert!(faults[0].1.contains(words), "{url:?}: {}", faults[0].1);
        }
    }

    proptest! {
        #[test]
        fn no_index_has_a_line_break_or_white_space(url in "(http|https|file)://[ -~\\s\\n]{0,20}") {
            if faults(&url).is_empty() {
                prop_assert!(!url.contains(char::is_whitespace));
            }
        }
    }
}
