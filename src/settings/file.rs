//! The settings file: YAML, with profiles. Keys are the long flags with underscores; what is unknown is refused.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_yaml::Value;

use super::layer::Layer;
use super::nearest::nearest;
use super::reader::{PROFILES, Reader};
use super::{Environment, Faults, Lay, Origin, Source, WhenChanged, flags, locate};
use crate::error::{Doing, Fault, Result, refuse};

/// The file's settings, then those of the chosen profile. No file: nothing. What is wrong in it goes to `faults`.
pub fn layers(
    source: &Source<'_>,
    environment: &Environment,
    home: &Path,
    cwd: &Path,
    faults: &mut Faults,
) -> Result<Vec<(Layer, Origin)>> {
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
    Ok(parse(&path, &text, source.profile, faults))
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

fn parse(path: &Path, text: &str, profile: Option<&str>, faults: &mut Faults) -> Vec<(Layer, Origin)> {
    let value: Value = match serde_yaml::from_str(text) {
        Ok(value) => value,
        Err(error) => {
            faults.push(malformed(path, text, &error));
            return Vec::new();
        }
    };
    let body = |value, prefix: &str, faults: &mut Faults| layer(&mut Reader { value, prefix, path, text, faults });
    let mut found = vec![(body(&value, "", faults), Origin::File { path: path.to_owned(), profile: None })];
    let profiles = profiles(&value, path, text, faults);
    // All of them are read: a fault in a profile is told before the day it is needed.
    for (name, value) in &profiles {
        let layer = body(value, &format!("{PROFILES}.{name}."), faults);
        if profile == Some(name) {
            found.push((layer, Origin::File { path: path.to_owned(), profile: Some((*name).to_owned()) }));
        }
    }
    let Some(name) = profile.filter(|_| found.len() == 1) else { return found };
    let known: Vec<&str> = profiles.iter().map(|(name, _)| *name).collect();
    let hint = match nearest(name, &known) {
        Some(near) => format!("Did you mean --profile {near}?"),
        None if known.is_empty() => "Leave --profile out, or write a `profiles:` mapping into the file.".to_owned(),
        None => format!("The file has these profiles: {}. Name one with --profile.", known.join(", ")),
    };
    faults.push((format!("{}: there is no profile {name:?}", path.display()), hint));
    found
}

/// The profiles of the file, by name.
fn profiles<'a>(value: &'a Value, path: &Path, text: &str, faults: &mut Faults) -> Vec<(&'a str, &'a Value)> {
    let Some(profiles) = value.get(PROFILES).filter(|v| !v.is_null()) else { return Vec::new() };
    let Some(mapping) = profiles.as_mapping() else {
        let hint = "Write `profiles:`, and below it a name and its settings: `try: {mode: discard}`.";
        let mut reader = Reader { value, prefix: "", path, text, faults };
        reader.fault(PROFILES, "profiles: it is not a mapping", hint.to_owned());
        return Vec::new();
    };
    mapping.iter().filter_map(|(name, body)| Some((name.as_str()?, body))).collect()
}

/// What the parser says names line and column; for a repeated key those of the mapping, so it is looked for.
fn malformed(path: &Path, text: &str, error: &serde_yaml::Error) -> (String, String) {
    let mut what = error.to_string();
    if let (Some(_), Some((line, column))) = (what.find("duplicate entry"), locate::repeated(text)) {
        what.truncate(what.rfind(" at line ").unwrap_or(what.len()));
        what.push_str(&format!(" at line {line} column {column}"));
    }
    (
        format!("{}: {what}", path.display()),
        format!("Mend the YAML of the settings file: `${{EDITOR:-vi}} {}`.", path.display()),
    )
}

/// A value of the mapping form of `lay`: a file, or `{file, when_changed}`.
#[derive(Deserialize)]
#[serde(untagged, expecting = "it is neither a file nor {file: FILE, when_changed: drop|keep|keep_symlink|fail}")]
enum LayEntry {
    File(PathBuf),
    Full(LayMapping),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LayMapping {
    file: PathBuf,
    #[serde(default)]
    when_changed: Option<WhenChanged>,
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
                LayEntry::Full(full) => {
                    Lay { path, source: full.file, when_changed: full.when_changed.unwrap_or(WhenChanged::Drop) }
                }
            })
            .collect(),
    }
}

/// A value of the mapping form of `env`.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a value is neither a text nor a number, true, false or null")]
enum Scalar {
    Text(String),
    Number(serde_yaml::Number),
    Bool(bool),
}

/// `env: [K=V, K]` or a mapping; a null value passes the caller's.
fn variables(reader: &mut Reader<'_>) -> Vec<(String, Option<String>)> {
    if !reader.is_mapping("env") {
        return reader.texts("env", flags::variable);
    }
    let map = reader.get::<std::collections::BTreeMap<String, Option<Scalar>>>("env").unwrap_or_default();
    let mut out = Vec::new();
    for (name, value) in map {
        let key = format!("env.{name}");
        let (text, plain) = match value {
            None => (None, false),
            Some(Scalar::Text(text)) => (Some(text), false),
            Some(Scalar::Number(number)) => (Some(number.to_string()), true),
            Some(Scalar::Bool(value)) => (Some(value.to_string()), true),
        };
        if name.is_empty() || name.contains('=') {
            let what = format!("{}{key}: {name:?} is no name of a variable", reader.prefix);
            reader.fault(&key, &what, "Write `NAME: \"value\"` below env.".to_owned());
        } else if let Some(read) = text.as_deref().filter(|text| plain && !reader.is_written(&key, text)) {
            let what =
                format!("{}{key}: YAML reads the value as {read}, which is not how it is written", reader.prefix);
            reader.fault(&key, &what, format!("Quote it, and it stays as it is: `{name}: \"…\"`."));
        }
        out.push((name, text));
    }
    out
}

/// Whether there are settings to read; anything else than a mapping, or nothing, is a fault.
fn is_mapping(reader: &mut Reader<'_>) -> bool {
    if !reader.value.is_mapping() && !reader.value.is_null() {
        let name = reader.prefix.trim_end_matches('.');
        let what = if name.is_empty() { "the file".to_owned() } else { name.to_owned() };
        let hint = "Write one `key: value` a line.".to_owned();
        reader.faults.push((format!("{}: {what} is not a mapping", reader.path.display()), hint));
    }
    reader.value.is_mapping()
}

fn layer(reader: &mut Reader<'_>) -> Layer {
    if !is_mapping(reader) {
        return Layer::default();
    }
    reader.unknown_keys();
    // Paths of this machine in a file are relative to that file, as in every build tool.
    let base = reader.path.parent().unwrap_or(Path::new("/")).to_owned();
    let host = |path: PathBuf| base.join(path);
    Layer {
        mode: reader.get("mode"),
        on_failure: reader.get("on_failure"),
        mirror: reader.get("mirror").map(host),
        indexes: reader.list("index"),
        official_index: reader.get("official_index"),
        use_official: reader.get::<bool>("no_official").map(|no| !no),
        serve: reader.get("serve"),
        serve_path: reader.get("serve_path"),
        offline: reader.get("offline"),
        retries: reader.get("retries"),
        timeout: reader.get("timeout"),
        network: reader.get("network").map(Some),
        allow: reader.texts("allow", super::allow::parse),
        escape: reader.get("escape"),
        resolver: reader.get::<String>("resolver").map(|text| match flags::resolver(&text) {
            super::Resolver::File(path) => super::Resolver::File(host(path)),
            other => other,
        }),
        lay: lays(reader).into_iter().map(|l| Lay { source: host(l.source), ..l }).collect(),
        bind: reader
            .texts("bind", flags::bind)
            .into_iter()
            .map(|b| super::Bind { source: host(b.source), ..b })
            .collect(),
        caches: reader.texts("cache", flags::cache),
        tmpfs: reader.list("tmpfs").unwrap_or_default().into_iter().map(PathBuf::from).collect(),
        env: variables(reader),
        workdir: reader.get("workdir"),
        user: reader.get("user"),
        hostname: reader.get("hostname"),
        dev: reader.get("dev"),
        cap_add: reader.list("cap_add").unwrap_or_default(),
        cap_drop: reader.list("cap_drop").unwrap_or_default(),
        scratch: reader.get("scratch").map(host),
        backend: reader.get("backend"),
        exact: reader.get("exact"),
        leaks: reader.get("leaks"),
        force: reader.get("force"),
        source_date_epoch: reader.get("source_date_epoch"),
        suppress_chown: reader.get("suppress_chown"),
        fsync: reader.get("fsync"),
        secret: reader
            .texts("secret", flags::secret)
            .into_iter()
            .map(|s| super::Secret { source: host(s.source), ..s })
            .collect(),
        record: reader.get("record").map(host),
        report: reader.get("report").map(host),
        grace: reader.get("grace"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Mode, Network};
    use super::*;

    const PATH: &str = "/etc/site/dropcloth.yaml";

    fn read(text: &str, profile: Option<&str>) -> Vec<(Layer, Origin)> {
        let mut faults = Faults::new();
        let layers = parse(Path::new(PATH), text, profile, &mut faults);
        assert_eq!(faults, [], "{text}");
        layers
    }

    /// What is wrong, without the file's name.
    fn because(text: &str, profile: Option<&str>) -> Vec<String> {
        let mut faults = Faults::new();
        parse(Path::new(PATH), text, profile, &mut faults);
        assert!(faults.iter().all(|(_, hint)| hint.ends_with(['.', '?'])), "{faults:#?}");
        faults.into_iter().map(|(what, _)| what.strip_prefix(PATH).unwrap().to_owned()).collect()
    }

    #[test]
    fn a_profile_stands_on_top_of_the_file() {
        let text = "mode: commit\nmirror: pypi\nindex: [http://a/, http://b/]\nprofiles:\n  try:\n    mode: discard\n    network: none\n";
        let layers = read(text, Some("try"));
        assert_eq!(layers[0].0.mode, Some(Mode::Commit));
        assert_eq!(layers[0].0.mirror.as_deref(), Some(Path::new("/etc/site/pypi")));
        assert_eq!(layers[0].0.indexes.as_deref().unwrap(), ["http://a/", "http://b/"]);
        assert_eq!(layers[1].0.mode, Some(Mode::Discard));
        assert_eq!(layers[1].0.network, Some(Some(Network::None)));
    }

    #[test]
    fn overrides_are_a_list_or_a_mapping() {
        let text = "lay:\n  /etc/a: files/a\n  /etc/b: {file: /b, when_changed: fail}\nenv: {A: 1, B: null, C: yes please}\nbind: [/x:/y:ro]\n";
        let layer = read(text, None).remove(0).0;
        assert_eq!(layer.lay[0].source, Path::new("/etc/site/files/a"));
        assert_eq!(layer.lay[1].when_changed, WhenChanged::Fail);
        let expected = [("A", Some("1")), ("B", None), ("C", Some("yes please"))];
        let expected: Vec<_> = expected.iter().map(|(k, v)| ((*k).to_owned(), v.map(str::to_owned))).collect();
        assert_eq!(layer.env, expected);
        assert!(layer.bind[0].read_only);
    }

    #[test]
    fn unknown_keys_are_all_told_with_their_place_in_every_profile() {
        let text = "mirorr: x\nno-official: true\nprofiles:\n  a: {modus: discard}\n  b:\n    profiles: {}\n";
        let expected = [
            ":1:1: unknown key mirorr",
            ":2:1: unknown key no-official",
            ":4:7: unknown key profiles.a.modus",
            ":6:5: unknown key profiles.b.profiles",
        ];
        assert_eq!(because(text, Some("a")), expected);
        let mut faults = Faults::new();
        parse(Path::new(PATH), text, None, &mut faults);
        let hints: Vec<&str> = faults.iter().map(|(_, hint)| hint.as_str()).collect();
        assert_eq!(hints[..2], ["Did you mean mirror?", "Did you mean no_official?"]);
    }

    #[test]
    fn malformed_yaml_and_a_repeated_key_name_line_and_column() {
        let table = [
            ("mode: commit\n  bad: [\n", "at line 2 column 6"),
            ("a: [\n", "line"),
            ("mode: commit\nmode: discard\n", "at line 2 column 1"),
            ("profiles:\n  a:\n    mode: commit\n    mode: commit\n", "at line 4 column 5"),
        ];
        for (text, words) in table {
            let because = because(text, None);
            assert!(because.len() == 1 && because[0].contains(words), "{because:#?}");
        }
    }

    #[test]
    fn a_wrong_type_names_line_column_and_key_and_no_type_of_the_source_code() {
        let table = [
            ("timeout: 3\nretries: many\n", ":2:1: retries:"),
            ("mode: comit\n", ":1:1: mode:"),
            ("index: {a: b}\n", ":1:1: index: it is neither a text nor a list"),
            ("lay: {/a: {fle: b}}\n", ":1:1: lay: it is neither a file nor"),
            ("lay: {/a: {file: b, when_changed: explode}}\n", ":1:1: lay:"),
            ("profiles: 3\n", ":1:1: profiles: it is not a mapping"),
            ("profiles: {a: 3}\n", ": profiles.a is not a mapping"),
            ("- mode\n", ": the file is not a mapping"),
            ("bind: [/x]\n", ":1:1: bind: --bind /x is not"),
            ("env: {\"A=B\": x}\n", ":1:7: env.A=B:"),
        ];
        for (text, words) in table {
            let because = because(text, None);
            assert!(because.len() == 1 && because[0].starts_with(words), "{text}: {because:#?}");
            assert!(!because[0].contains("untagged"), "{because:#?}");
        }
    }

    #[test]
    fn a_variable_that_yaml_would_change_has_to_be_quoted() {
        for value in ["3.10", "0x1f", "True", "1e3"] {
            let because = because(&format!("env:\n  A: {value}\n"), None);
            assert!(because.len() == 1 && because[0].starts_with(":2:3: env.A: YAML reads"), "{value}: {because:#?}");
        }
        for value in ["3", "-1", "1.5", "true", "\"3.10\"", "0755", "3 # three"] {
            let layer = read(&format!("env: \n  A: {value}\n"), None).remove(0).0;
            let expected = value.split(" #").next().unwrap_or_default().trim_matches('"');
            assert_eq!(layer.env, [("A".to_owned(), Some(expected.to_owned()))]);
        }
    }

    #[test]
    fn a_profile_that_is_not_there_is_told_with_the_nearest() {
        let mut faults = Faults::new();
        parse(Path::new(PATH), "profiles: {offline: {}}\n", Some("ofline"), &mut faults);
        assert_eq!(faults[0].1, "Did you mean --profile offline?");
        assert_eq!(because("mode: commit\n", Some("x")), [": there is no profile \"x\""]);
    }

    #[test]
    fn an_empty_file_or_profile_says_nothing() {
        assert_eq!(read("", None)[0].0, Layer::default());
        assert_eq!(read("profiles: {a: }\n", Some("a"))[1].0, Layer::default());
    }
}
