//! One mapping of the settings file: typed values, and every fault of it with line and column.

use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_yaml::Value;

use super::nearest::nearest;
use super::{Faults, locate};

const KEYS: [&str; 38] = [
    "mode",
    "on_failure",
    "mirror",
    "index",
    "offline",
    "no_official",
    "official_index",
    "serve",
    "serve_path",
    "retries",
    "timeout",
    "lay",
    "bind",
    "cache",
    "tmpfs",
    "env",
    "workdir",
    "user",
    "hostname",
    "dev",
    "network",
    "allow",
    "escape",
    "resolver",
    "cap_add",
    "cap_drop",
    "scratch",
    "backend",
    "exact",
    "leaks",
    "force",
    "source_date_epoch",
    "suppress_chown",
    "fsync",
    "secret",
    "record",
    "report",
    "grace",
];

/// The mapping of profiles; a profile has none of its own.
pub(super) const PROFILES: &str = "profiles";

/// Reads one mapping; every fault of it is collected.
pub(super) struct Reader<'a> {
    pub value: &'a Value,
    /// The keys above, each with a dot.
    pub prefix: &'a str,
    pub path: &'a Path,
    pub text: &'a str,
    pub faults: &'a mut Faults,
}

impl Reader<'_> {
    /// A fault of `key`, with the place where it stands.
    pub fn fault(&mut self, key: &str, what: &str, hint: String) {
        let place = locate::key(self.text, &format!("{}{key}", self.prefix));
        let place = place.map_or_else(String::new, |(line, column)| format!(":{line}:{column}"));
        self.faults.push((format!("{}{place}: {what}", self.path.display()), hint));
    }

    /// Every key that is no setting, with the nearest that is one.
    pub fn unknown_keys(&mut self) {
        let names = self.value.as_mapping().into_iter().flat_map(|m| m.keys());
        for name in names.map(|key| key.as_str().map_or_else(|| format!("{key:?}"), str::to_owned)) {
            let top = self.prefix.is_empty();
            if KEYS.contains(&name.as_str()) || (top && name == PROFILES) {
                continue;
            }
            let hint = match nearest(&name.replace('-', "_"), &KEYS) {
                Some(near) => format!("Did you mean {near}?"),
                None if name == PROFILES => "Write every profile into the one mapping at the top.".to_owned(),
                None => format!("Use one of the known keys: {}.", KEYS.join(", ")),
            };
            self.fault(&name, &format!("unknown key {}{name}", self.prefix), hint);
        }
    }

    /// Whether the value of `key` is a mapping.
    pub fn is_mapping(&self, key: &str) -> bool {
        self.value.get(key).is_some_and(Value::is_mapping)
    }

    /// The value of `key`, if it is there and of the right type.
    pub fn get<T: DeserializeOwned>(&mut self, key: &str) -> Option<T> {
        match serde_yaml::from_value(self.value.get(key)?.clone()) {
            Ok(value) => Some(value),
            Err(error) => {
                let hint = format!("`dropcloth run --help` says what --{} takes.", key.replace('_', "-"));
                self.fault(key, &format!("{}{key}: {error}", self.prefix), hint);
                None
            }
        }
    }

    /// A list, or a single value as a list of one.
    pub fn list(&mut self, key: &str) -> Option<Vec<String>> {
        self.get::<OneOrMany>(key).map(OneOrMany::list)
    }

    /// The list of `key`, each text read as the flag of that name reads it.
    pub fn texts<T>(&mut self, key: &str, read: fn(&str) -> Result<T, (String, String)>) -> Vec<T> {
        let mut out = Vec::new();
        for text in self.list(key).unwrap_or_default() {
            match read(&text) {
                Ok(value) => out.push(value),
                Err((what, hint)) => self.fault(key, &format!("{}{key}: {what}", self.prefix), hint),
            }
        }
        out
    }

    /// Whether `rendered` is what stands behind the key in the file: YAML reads 3.10 as 3.1, and 0x1f as 31.
    pub fn is_written(&self, key: &str, rendered: &str) -> bool {
        let place = locate::key(self.text, &format!("{}{key}", self.prefix));
        let line = place.and_then(|(line, column)| Some((self.text.lines().nth(line - 1)?, column - 1)));
        let rest: Option<String> = line.map(|(line, column)| line.chars().skip(column).collect());
        let value = rest.as_deref().and_then(|r| r.split_once(':')).map_or("", |(_, value)| value.trim_start());
        value.split([',', '}', ' ', '\t']).next() == Some(rendered)
    }
}

/// A list, or a single value as a list of one.
#[derive(Deserialize)]
#[serde(untagged, expecting = "it is neither a text nor a list of texts")]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn list(self) -> Vec<String> {
        match self {
            OneOrMany::One(one) => vec![one],
            OneOrMany::Many(many) => many,
        }
    }
}
