//! `.pydistutils.cfg` and `distutils.cfg`: what easy_install and setuptools' `setup_requires` read.

use super::Indexes;

/// The whole file. There is room for one index: the last listed mirror.
pub fn text(indexes: &Indexes) -> String {
    format!("# Laid over by dropcloth for the length of one step.\n[easy_install]\nindex_url = {}\n", indexes.single())
}

#[cfg(test)]
mod tests {
    use super::super::tests::indexes;

    #[test]
    fn the_last_listed_mirror_is_the_distutils_index() {
        let text = super::text(&indexes(&["http://a/simple", "http://b/simple"], true));
        assert!(text.ends_with("[easy_install]\nindex_url = http://b/simple\n"), "{text}");
    }
}
