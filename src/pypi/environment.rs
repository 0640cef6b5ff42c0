//! The variables of Python installers: the host's are never passed on, these are set.

use super::{Indexes, OWN_DIRECTORY};

/// Variables of the step, in a fixed order.
pub fn variables(indexes: &Indexes) -> Vec<(String, String)> {
    let mut all: Vec<(&str, String)> = vec![
        ("PIP_CONFIG_FILE", format!("{OWN_DIRECTORY}/pip.conf")),
        // Set although the file says it: setuptools' setup_requires looks only at its presence.
        ("PIP_INDEX_URL", indexes.first().to_owned()),
        ("PIP_DISABLE_PIP_VERSION_CHECK", "1".to_owned()),
    ];
    // pip has no cache whatever the value.
    if !indexes.pip_cache {
        all.push(("PIP_NO_CACHE_DIR", "1".to_owned()));
    }
    if let Some(links) = &indexes.links {
        all.push(("PIP_NO_INDEX", "1".to_owned()));
        all.push(("PIP_FIND_LINKS", links.clone()));
    }
    let extra: Vec<&str> = indexes.extra().collect();
    if !extra.is_empty() {
        all.push(("PIP_EXTRA_INDEX_URL", extra.join(" ")));
    }
    let hosts = indexes.trusted_hosts();
    if !hosts.is_empty() {
        all.push(("PIP_TRUSTED_HOST", hosts.join(" ")));
    }
    if let Some(retries) = indexes.retries {
        all.push(("PIP_RETRIES", retries.to_string()));
    }
    if indexes.proxy.is_some() {
        // It waits a second before its first other attempt, and what the proxy refuses stays refused.
        all.push(("UV_HTTP_RETRIES", indexes.uv_retries.unwrap_or(0).to_string()));
    }
    all.push(("UV_CONFIG_FILE", format!("{OWN_DIRECTORY}/uv.toml")));
    if extra.is_empty() {
        all.push(("UV_DEFAULT_INDEX", indexes.first().to_owned()));
    }
    if indexes.offline && !indexes.needs_network() {
        all.push(("UV_OFFLINE", "1".to_owned()));
    }
    if !indexes.uv_cache {
        all.push(("UV_NO_CACHE", "1".to_owned()));
    }
    all.push(("UV_PYTHON_DOWNLOADS", "never".to_owned()));
    all.push(("PDM_PYPI_URL", indexes.single().to_owned()));
    all.push(("PDM_CHECK_UPDATE", "0".to_owned()));
    all.push(("VIRTUALENV_NO_PERIODIC_UPDATE", "1".to_owned()));
    all.push(("DIST_EXTRA_CONFIG", format!("{OWN_DIRECTORY}/pydistutils.cfg")));
    // These two understand http mirrors only.
    if indexes.single().starts_with("http") {
        all.push(("PIPENV_PYPI_MIRROR", indexes.single().to_owned()));
        all.push(("POETRY_PYPI_MIRROR_URL", indexes.single().to_owned()));
    }
    all.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Whether a variable of the caller is for installers of Python packages, and would lead them elsewhere.
pub fn is_of_installers(name: &str) -> bool {
    const FAMILIES: [&str; 8] = ["PIP_", "UV_", "PDM_", "POETRY_", "PIPX_", "PIPENV_", "VIRTUALENV_", "CONDA_"];
    FAMILIES.iter().any(|family| name.starts_with(family)) || ["VIRTUAL_ENV", "DIST_EXTRA_CONFIG"].contains(&name)
}

/// Variables of tools that take a mirror by http only, for the view of the local one at `port`. They yield to any that the step
/// has already.
pub fn of_view(port: u16) -> [(&'static str, String); 3] {
    let url = format!("http://127.0.0.1:{port}/simple/");
    [("DROPCLOTH_MIRROR_URL", url.clone()), ("POETRY_PYPI_MIRROR_URL", url.clone()), ("PIPENV_PYPI_MIRROR", url)]
}

#[cfg(test)]
mod tests {
    use super::super::tests::indexes;

    fn value(urls: &[&str], official: bool, name: &str) -> Option<String> {
        super::variables(&indexes(urls, official)).into_iter().find(|(n, _)| n == name).map(|(_, v)| v)
    }

    #[test]
    fn http_only_tools_get_no_file_mirror() {
        assert_eq!(value(&["file:///tmp/pypi"], false, "PIPENV_PYPI_MIRROR"), None);
        assert_eq!(value(&["http://a/s"], false, "PIPENV_PYPI_MIRROR").as_deref(), Some("http://a/s"));
    }

    #[test]
    fn uv_is_told_it_is_offline_only_with_file_mirrors() {
        assert_eq!(value(&["file:///tmp/pypi"], false, "UV_OFFLINE").as_deref(), Some("1"));
        assert_eq!(value(&["http://a/s"], false, "UV_OFFLINE"), None);
        assert_eq!(value(&["file:///tmp/pypi"], true, "UV_OFFLINE"), None);
    }
}
