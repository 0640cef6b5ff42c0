//! pdm's configuration file: one index.

use super::Indexes;
use super::uv_toml::quoted;

/// The whole file.
pub fn text(indexes: &Indexes) -> String {
    format!(
        "# Laid over by dropcloth for the length of one step.\ncheck_update = false\n[pypi]\nurl = {}\n",
        quoted(indexes.single())
    )
}
