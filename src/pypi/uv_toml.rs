//! uv's configuration file. uv reads no pip.conf and no PIP_* variable.

use std::fmt::Write;

use super::Indexes;

/// The whole file. uv takes a name from the first index that has it; the default index comes last.
pub fn text(indexes: &Indexes) -> String {
    let mut out = String::from("# Laid over by dropcloth for the length of one step.\n");
    // uv's offline mode refuses http even on the loopback interface, so it is for files only.
    if indexes.offline && !indexes.needs_network() {
        out.push_str("offline = true\n");
    }
    if !indexes.uv_cache {
        out.push_str("no-cache = true\n");
    }
    out.push_str("python-downloads = \"never\"\n");
    let last = indexes.iter().count().saturating_sub(1);
    for (place, index) in indexes.iter().enumerate() {
        let name = if index.official { "official".to_owned() } else { format!("dropcloth-{}", place + 1) };
        let _ = write!(out, "[[index]]\nname = \"{name}\"\nurl = {}\n", quoted(&index.url));
        if place == last {
            out.push_str("default = true\n");
        }
    }
    out
}

/// A TOML basic string.
pub fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::super::tests::indexes;

    #[test]
    fn exactly_one_index_is_the_default_and_it_is_the_last() {
        let text = super::text(&indexes(&["http://a/simple", "http://b/simple"], true));
        assert_eq!(text.matches("default = true").count(), 1);
        assert!(text.ends_with("name = \"official\"\nurl = \"https://pypi.org/simple\"\ndefault = true\n"), "{text}");
        assert!(!text.contains("offline"));
        assert!(super::text(&indexes(&["file:///tmp/pypi"], false)).contains("offline = true\n"));
    }
}
