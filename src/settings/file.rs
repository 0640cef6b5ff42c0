//! The settings file: YAML, with profiles. Keys are the long flags with underscores; what is unknown is refused.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_yaml::Value;

use super::layer::Layer;
use super::{Environment, Faults, Lay, Origin, Source, WhenChanged, flags};
use crate::error::{Doing, Fault, Result, refuse};

const KEYS: [&str; 25] = [
    "mode",
    "on_failure",
    "mirror",
    "index",
    "offline",
    "no_official",
    "official_index",
    "retries",
    "timeout",
    "lay",
    "bind",
    "tmpfs",
    "env",
    "workdir",
    "user",
    "hostname",
    "dev",
    "network",
    "resolver",
    "cap_add",
    "cap_drop",
    "scratch",
    "report",
    "grace",
    "profiles",
];

/// The file's settings, then those of the chosen profile. No file: nothing.
pub fn layers(source: &Source<'_>, environment: &Environment, home: &Path, cwd: &Path) -> Result<Vec<(Layer, Origin)>> {
    let Some(path) = find(source, environment, home, cwd) else {
        return match source.profile {
            None => Ok(Vec::new()),
            Some(profile) => refuse(
                Fault::new(format!("there is no settings file that could have the profile {profile:?}"))
                    .hint("Make ./dropcloth.yaml with a `profiles:` mapping in it, or name a file with --config."),
            ),
        };
    };
    let text = std::fs::read_to_string(&path)
        .doing(|| format!("cannot read the settings file {}", path.display()))
        .hint(|| "Name a readable file with --config.")?;
    parse(&path, &text, source.profile)
}

/// `--config`, `./dropcloth.yaml`, `$XDG_CONFIG_HOME/dropcloth/config.yaml`, `/etc/dropcloth.yaml`: the first that is there.
fn find(source: &Source<'_>, environment: &Environment, home: &Path, cwd: &Path) -> Option<PathBuf> {
    if let Some(path) = source.config {
        return Some(cwd.join(path));
    }
    let user = environment.get("XDG_CONFIG_HOME").map_or_else(|| home.join(".config"), PathBuf::from);
    let places = [cwd.join("dropcloth.yaml"), user.join("dropcloth/config.yaml"), PathBuf::from("/etc/dropcloth.yaml")];
    places.into_iter().find(|p| p.is_file())
}

fn parse(path: &Path, text: &str, profile: Option<&str>) -> Result<Vec<(Layer, Origin)>> {
    let doing = || format!("cannot use the settings file {}", path.display());
    // The parser's message names line and column.
    let value: Value = serde_yaml::from_str(text)
        .doing(doing)
        .hint(|| format!("Mend it at the line named above: `${{EDITOR:-vi}} {}`.", path.display()))?;
    let mut faults = Faults::new();
    let base = Path::new(path).parent().unwrap_or(Path::new("/"));
    let mut found = vec![(layer(&value, base, "", &mut faults), Origin::File { path: path.to_owned(), profile: None })];
    if let Some(name) = profile {
        let profiles = value.get("profiles").and_then(Value::as_mapping);
        let known: Vec<&str> = profiles.into_iter().flat_map(|p| p.keys()).filter_map(Value::as_str).collect();
        match value.get("profiles").and_then(|p| p.get(name)) {
            Some(body) => {
                let origin = Origin::File { path: path.to_owned(), profile: Some(name.to_owned()) };
                found.push((layer(body, base, &format!("profiles.{name}."), &mut faults), origin));
            }
            None => faults.push((
                format!("there is no profile {name:?}"),
                match nearest(name, &known) {
                    Some(near) => format!("Did you mean --profile {near}?"),
                    None => format!("The file has these profiles: {}.", known.join(", ")),
                },
            )),
        }
    }
    if faults.is_empty() {
        return Ok(found);
    }
    refuse(faults.into_iter().fold(Fault::new(doing()), |fault, (what, hint)| fault.because(what).hint(hint)))
}

/// Reads one mapping; every fault of it is collected.
struct Reader<'a> {
    value: &'a Value,
    prefix: &'a str,
    faults: &'a mut Faults,
}

impl Reader<'_> {
    fn is_mapping(&self, key: &str) -> bool {
        self.value.get(key).is_some_and(Value::is_mapping)
    }

    fn get<T: DeserializeOwned>(&mut self, key: &str) -> Option<T> {
        let value = self.value.get(key)?;
        match serde_yaml::from_value(value.clone()) {
            Ok(value) => Some(value),
            Err(error) => {
                self.faults.push((
                    format!("{}{key}: {error}", self.prefix),
                    format!("`dropcloth run --help` says what --{} takes.", key.replace('_', "-")),
                ));
                None
            }
        }
    }

    fn texts<T>(&mut self, key: &str, read: fn(&str) -> std::result::Result<T, (String, String)>) -> Vec<T> {
        let list = self.get::<OneOrMany>(key).map_or_else(Vec::new, OneOrMany::list);
        let mut out = Vec::new();
        for text in list {
            match read(&text) {
                Ok(value) => out.push(value),
                Err((what, hint)) => self.faults.push((format!("{}{key}: {what}", self.prefix), hint)),
            }
        }
        out
    }
}

/// A list, or a single value as a list of one.
#[derive(Deserialize)]
#[serde(untagged)]
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

/// A value of the mapping form of `lay`: a file, or `{file, when_changed}`.
#[derive(Deserialize)]
#[serde(untagged)]
enum LayEntry {
    File(PathBuf),
    Full {
        file: PathBuf,
        #[serde(default)]
        when_changed: Option<WhenChanged>,
    },
}

/// `lay`: a list of PATH=FILE, or a mapping of paths.
fn lays(reader: &mut Reader<'_>) -> Vec<Lay> {
    if !reader.is_mapping("lay") {
        return reader.texts("lay", flags::lay);
    }
    match reader.get::<std::collections::BTreeMap<PathBuf, LayEntry>>("lay") {
        None => Vec::new(),
        Some(map) => map
            .into_iter()
            .map(|(path, entry)| match entry {
                LayEntry::File(source) => Lay { path, source, when_changed: WhenChanged::Drop },
                LayEntry::Full { file, when_changed } => {
                    Lay { path, source: file, when_changed: when_changed.unwrap_or(WhenChanged::Drop) }
                }
            })
            .collect(),
    }
}

/// `env: [K=V, K]` or a mapping; a null value passes the caller's.
fn variables(reader: &mut Reader<'_>) -> Vec<(String, Option<String>)> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Scalar {
        Text(String),
        Number(serde_yaml::Number),
        Bool(bool),
    }
    if !reader.is_mapping("env") {
        return reader.texts("env", flags::variable);
    }
    match reader.get::<std::collections::BTreeMap<String, Option<Scalar>>>("env") {
        None => Vec::new(),
        Some(map) => map
            .into_iter()
            .map(|(name, value)| {
                let text = value.map(|v| match v {
                    Scalar::Text(text) => text,
                    Scalar::Number(number) => number.to_string(),
                    Scalar::Bool(value) => value.to_string(),
                });
                (name, text)
            })
            .collect(),
    }
}

fn layer(value: &Value, base: &Path, prefix: &str, faults: &mut Faults) -> Layer {
    if value.is_null() {
        return Layer::default();
    }
    let Some(mapping) = value.as_mapping() else {
        faults.push((format!("{prefix}: it is not a mapping"), "Write one `key: value` a line.".to_owned()));
        return Layer::default();
    };
    for key in mapping.keys() {
        let name = key.as_str().map_or_else(|| format!("{key:?}"), str::to_owned);
        if !KEYS.contains(&name.as_str()) {
            let hint = match nearest(&name.replace('-', "_"), &KEYS) {
                Some(near) => format!("Did you mean {near}?"),
                None => format!("Known keys: {}.", KEYS.join(", ")),
            };
            faults.push((format!("unknown key {prefix}{name}"), hint));
        }
    }
    let mut reader = Reader { value, prefix, faults };
    // Paths of this machine in a file are relative to that file, as in every build tool.
    let host = |path: PathBuf| base.join(path);
    let lay = lays(&mut reader).into_iter().map(|l| Lay { source: host(l.source), ..l }).collect();
    let bind =
        reader.texts("bind", flags::bind).into_iter().map(|b| super::Bind { source: host(b.source), ..b }).collect();
    let resolver = reader.get::<String>("resolver").map(|text| match flags::resolver(&text) {
        super::Resolver::File(path) => super::Resolver::File(host(path)),
        other => other,
    });
    Layer {
        mode: reader.get("mode"),
        on_failure: reader.get("on_failure"),
        mirror: reader.get("mirror").map(host),
        indexes: reader.get::<OneOrMany>("index").map(OneOrMany::list),
        official_index: reader.get("official_index"),
        use_official: reader.get::<bool>("no_official").map(|no| !no),
        offline: reader.get("offline"),
        retries: reader.get("retries"),
        timeout: reader.get("timeout"),
        network: reader.get("network").map(Some),
        resolver,
        lay,
        bind,
        tmpfs: reader.get("tmpfs").unwrap_or_default(),
        env: variables(&mut reader),
        workdir: reader.get("workdir"),
        user: reader.get("user"),
        hostname: reader.get("hostname"),
        dev: reader.get("dev"),
        cap_add: reader.get::<OneOrMany>("cap_add").map_or_else(Vec::new, OneOrMany::list),
        cap_drop: reader.get::<OneOrMany>("cap_drop").map_or_else(Vec::new, OneOrMany::list),
        scratch: reader.get("scratch").map(host),
        report: reader.get("report").map(host),
        grace: reader.get("grace"),
    }
}

/// The known word that is nearest to `word`, if one is near.
fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let best = known.iter().min_by_key(|k| distance(word, k))?;
    (distance(word, best) <= 1 + word.len() / 3).then_some(*best)
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::super::{Mode, Network};
    use super::*;

    fn read(text: &str, profile: Option<&str>) -> Result<Vec<(Layer, Origin)>> {
        parse(Path::new("/etc/site/dropcloth.yaml"), text, profile)
    }

    fn because(text: &str, profile: Option<&str>) -> Fault {
        Fault::from_error(read(text, profile).unwrap_err())
    }

    #[test]
    fn a_profile_stands_on_top_of_the_file() {
        let text = "mode: commit\nmirror: pypi\nindex: [http://a/, http://b/]\nprofiles:\n  try:\n    mode: discard\n    network: none\n";
        let layers = read(text, Some("try")).unwrap();
        assert_eq!(layers[0].0.mode, Some(Mode::Commit));
        assert_eq!(layers[0].0.mirror.as_deref(), Some(Path::new("/etc/site/pypi")));
        assert_eq!(layers[0].0.indexes.as_deref().unwrap(), ["http://a/", "http://b/"]);
        assert_eq!(layers[1].0.mode, Some(Mode::Discard));
        assert_eq!(layers[1].0.network, Some(Some(Network::None)));
    }

    #[test]
    fn overrides_are_a_list_or_a_mapping() {
        let text = "lay:\n  /etc/a: files/a\n  /etc/b: {file: /b, when_changed: fail}\nenv: {A: 1, B: null, C: yes please}\nbind: [/x:/y:ro]\n";
        let layer = read(text, None).unwrap().remove(0).0;
        assert_eq!(layer.lay[0].source, Path::new("/etc/site/files/a"));
        assert_eq!(layer.lay[1].when_changed, WhenChanged::Fail);
        let expected = [("A", Some("1")), ("B", None), ("C", Some("yes please"))];
        let expected: Vec<_> = expected.iter().map(|(k, v)| ((*k).to_owned(), v.map(str::to_owned))).collect();
        assert_eq!(layer.env, expected);
        assert!(layer.bind[0].read_only);
    }

    #[test]
    fn unknown_keys_are_all_told_with_the_nearest_known_one() {
        let fault = because("mirorr: x\nno-official: true\nprofiles: {a: {modus: discard}}\n", Some("a"));
        assert_eq!(fault.because, ["unknown key mirorr", "unknown key no-official", "unknown key profiles.a.modus"]);
        assert_eq!(fault.hints[..2], ["Did you mean mirror?", "Did you mean no_official?"]);
    }

    #[test]
    fn malformed_yaml_names_the_line() {
        let fault = because("mode: commit\n  bad: [\n", None);
        assert!(fault.because.iter().any(|b| b.contains("line 2") || b.contains("line 3")), "{fault:#?}");
    }

    #[test]
    fn a_wrong_type_names_the_key() {
        let fault = because("retries: many\nmode: comit\n", None);
        assert!(fault.because.iter().any(|b| b.starts_with("retries:")), "{fault:#?}");
        assert!(fault.because.iter().any(|b| b.starts_with("mode:") && b.contains("comit")), "{fault:#?}");
    }

    #[test]
    fn a_profile_that_is_not_there_is_told_with_the_nearest() {
        let fault = because("profiles: {offline: {}}\n", Some("ofline"));
        assert_eq!(fault.hints, ["Did you mean --profile offline?"]);
    }

    #[test]
    fn an_empty_file_says_nothing() {
        assert_eq!(read("", None).unwrap()[0].0, Layer::default());
    }
}
