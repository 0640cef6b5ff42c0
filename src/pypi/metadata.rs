//! Core metadata of a distribution, packaging.python.org "Core metadata specifications".

/// The fields that dependencies hang on.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Metadata {
    /// `Name`.
    pub name: String,
    /// `Version`.
    pub version: String,
    /// `Requires-Python`.
    pub requires_python: Option<String>,
    /// `Requires-Dist`, each a PEP 508 requirement.
    pub requires_dist: Vec<String>,
    /// `Provides-Extra`.
    pub extras: Vec<String>,
}

impl Metadata {
    /// Reads the header fields; the description after the empty line is not looked at.
    pub fn parse(text: &str) -> Metadata {
        let mut metadata = Metadata::default();
        for line in unfolded(text) {
            let Some((field, value)) = line.split_once(':') else { continue };
            let value = value.trim().to_owned();
            match field.to_ascii_lowercase().as_str() {
                "name" => metadata.name = value,
                "version" => metadata.version = value,
                "requires-python" => metadata.requires_python = Some(value).filter(|v| !v.is_empty()),
                "requires-dist" => metadata.requires_dist.push(value),
                "provides-extra" => metadata.extras.push(value),
                _ => {}
            }
        }
        metadata
    }
}

/// Header lines, those that go on in the next line joined, RFC 5322 "folding".
fn unfolded(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines().take_while(|line| !line.is_empty()) {
        match lines.last_mut() {
            Some(last) if line.starts_with([' ', '\t']) => {
                last.push(' ');
                last.push_str(line.trim());
            }
            _ => lines.push(line.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_folded_ones_too_and_the_description_is_not() {
        let text = "Metadata-Version: 2.1\nName: Flask\nVersion: 3.1\nRequires-Python: >=3.9\nRequires-Dist: Werkzeug>=3.1;\n  python_version > '3'\nrequires-dist: click\nProvides-Extra: async\n\nRequires-Dist: no\n";
        let read = Metadata::parse(text);
        assert_eq!((read.name.as_str(), read.requires_python.as_deref()), ("Flask", Some(">=3.9")));
        assert_eq!(read.requires_dist, ["Werkzeug>=3.1; python_version > '3'", "click"]);
        assert_eq!(read.extras, ["async"]);
    }
}
