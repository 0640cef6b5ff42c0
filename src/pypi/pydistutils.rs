//! `.pydistutils.cfg` and `distutils.cfg`: what easy_install and setuptools' `setup_requires` read.

use super::Indexes;

/// The whole file. There is room for one index: the last listed mirror.
pub fn text(indexes: &Indexes) -> String {
    // Unlike pip, distutils of every Python 3 and setuptools up to 84 at least interpolate: a lone % (in a password) is a
    // syntax error there that ends every setup.py. Python 2 would read %% as it stands.
    let url = indexes.single().replace('%', "%%");
    format!("# Laid over by dropcloth for the length of one step.\n[easy_install]\nindex_url = {url}\n")
}

#[cfg(test)]
mod tests {
    use super::super::tests::indexes;

    #[test]
    fn the_last_listed_mirror_is_the_distutils_index() {
        let text = super::text(&indexes(&["http://a/simple", "http://b/simple"], true));
        assert!(text.ends_with("[easy_install]\nindex_url = http://b/simple\n"), "{text}");
    }

    #[test]
    fn a_percent_sign_is_doubled_for_the_parser_of_distutils() {
        let text = super::text(&indexes(&["http://user:p%40ss@a/simple"], true));
        assert!(text.ends_with("index_url = http://user:p%%40ss@a/simple\n"), "{text}");
    }
}
