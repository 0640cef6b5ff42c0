//! `dropcloth check` and `dropcloth explain` against the real pip of a Debian root.
#![allow(missing_docs, clippy::disallowed_methods, reason = "a test starts programs and clears up after itself")]

#[path = "support/packages.rs"]
mod packages;
#[path = "support/mod.rs"]
mod support;

use packages::{Package, tree};
use support::{Field, assert_code, stderr, stdout};

/// A field, a root, and a mirror somewhere else.
struct Ground {
    field: Field,
    root: std::path::PathBuf,
    files: tempfile::TempDir,
}

impl std::ops::Deref for Ground {
    type Target = Field;

    fn deref(&self) -> &Field {
        &self.field
    }
}

impl Ground {
    fn file(&self, name: &str) -> String {
        self.files.path().join(name).to_str().unwrap().to_owned()
    }

    /// `dropcloth VERB --offline --mirror … OPTIONS`.
    fn with_mirror(&self, verb: &[&str], options: &[&str]) -> std::process::Output {
        let mirror = self.file("mirror");
        let fixed = ["--offline", "--mirror", &mirror, self.root.to_str().unwrap()];
        self.dropcloth(verb.iter().chain(&fixed).chain(options)).output().unwrap()
    }
}

/// A check changes nothing, so all may look at the one root.
fn field() -> Ground {
    Ground { field: Field::small(), root: support::debian_root(), files: tempfile::tempdir().unwrap() }
}

/// For those that write into the root first.
fn field_of_its_own() -> Ground {
    let field = Field::of(&support::debian_root());
    Ground { root: field.root.clone(), field, files: tempfile::tempdir().unwrap() }
}

fn check(field: &Ground, options: &[&str]) -> (serde_json::Value, Option<i32>) {
    let output = field.with_mirror(&["check", "--json"], options);
    let value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", stderr(&output)));
    (value, output.status.code())
}

fn mirror(field: &Ground, packages: &[Package]) {
    tree(&field.files.path().join("mirror"), packages);
}

fn names(value: &serde_json::Value, list: &str, key: &str) -> Vec<String> {
    value[list].as_array().unwrap().iter().map(|row| row[key].as_str().unwrap_or("-").to_owned()).collect()
}

#[test]
fn every_package_is_told_with_version_file_and_index() {
    needs_sandbox!();
    let field = field();
    mirror(
        &field,
        &[Package::wheel("app", "1.0").needs("lib>=2"), Package::wheel("lib", "1.0"), Package::wheel("lib", "2.5")],
    );
    let before = support::tree::snapshot(&field.root);
    let (report, code) = check(&field, &["app"]);
    assert_eq!(code, Some(0), "{report:#}");
    assert_eq!(names(&report, "packages", "name"), ["app", "lib"]);
    assert_eq!(names(&report, "packages", "file"), ["app-1.0-py3-none-any.whl", "lib-2.5-py3-none-any.whl"]);
    assert_eq!(names(&report, "packages", "index"), ["file:///tmp/pypi", "file:///tmp/pypi"]);
    assert_eq!(report["packages"][0]["requested"], true);
    support::tree::assert_same(&before, &support::tree::snapshot(&field.root), "a check");
}

#[test]
fn a_name_that_a_second_index_outbids_has_two_winners_and_fails() {
    needs_sandbox!();
    let field = field();
    tree(&field.files.path().join("mirror/a"), &[Package::wheel("victim", "1.0"), Package::wheel("calm", "2.0")]);
    tree(&field.files.path().join("mirror/b"), &[Package::wheel("victim", "9.9")]);
    let two = ["--index", "file:///tmp/pypi/a", "--index", "file:///tmp/pypi/b"];
    let (report, code) = check(&field, &[&two[..], &["victim", "calm"]].concat());
    assert_eq!(code, Some(1), "{report:#}");
    let row = &report["packages"][1];
    assert_eq!((row["name"].as_str(), row["version"].as_str()), (Some("victim"), Some("9.9")));
    assert_eq!(row["index"], "file:///tmp/pypi/b");
    assert_eq!(row["uv"], serde_json::json!({"index": "file:///tmp/pypi/a", "version": "1.0"}));
    assert_eq!(report["packages"][0]["uv"], serde_json::Value::Null, "calm is in one index only");
    let (_, code) = check(&field, &[&two[..], &["--confusion", "warn", "victim"]].concat());
    assert_eq!(code, Some(0));
    let text = stdout(&field.with_mirror(&[&["check"], &two[..]].concat(), &["victim"]));
    assert!(
        text.contains("pip takes 9.9 from file:///tmp/pypi/b") && text.contains("uv takes 1.0 from file:///tmp/pypi/a"),
        "{text}"
    );
}

#[test]
fn the_same_file_name_with_two_hashes_is_a_conflict() {
    needs_sandbox!();
    let field = field();
    tree(&field.files.path().join("mirror/a"), &[Package::wheel("twin", "1.0")]);
    tree(&field.files.path().join("mirror/b"), &[Package::wheel("twin", "1.0").needs("nothing; python_version < '3'")]);
    let (report, code) = check(&field, &["--index", "file:///tmp/pypi/a", "--index", "file:///tmp/pypi/b", "twin"]);
    assert_eq!(code, Some(1), "{report:#}");
    assert_eq!(report["packages"][0]["conflicts"], serde_json::json!(["file:///tmp/pypi/b"]));
}

#[test]
fn a_stale_mirror_is_told_whole_with_build_requirements() {
    needs_sandbox!();
    let field = field();
    let packages = [
        Package::wheel("app", "1.0").needs("gone>=1").needs("lib>=2").needs("only-windows; sys_platform == 'win32'"),
        Package::wheel("lib", "1.0"),
        Package::sdist("src", "1.0").built_with("backend-that-is-not-there"),
    ];
    mirror(&field, &packages);
    let (report, code) = check(&field, &["app", "src"]);
    assert_eq!(code, Some(1));
    let mut missing = names(&report, "missing", "requirement");
    missing.sort();
    assert_eq!(missing, ["backend-that-is-not-there", "gone>=1", "lib>=2"], "{report:#}");
    let why =
        |name: &str| report["missing"].as_array().unwrap().iter().find(|m| m["requirement"] == name).unwrap().clone();
    assert_eq!(why("lib>=2")["why"], "the indexes have 1.0");
    assert_eq!(why("backend-that-is-not-there")["build"], true);
    assert!(report["pip_failed"].as_str().unwrap().contains("No matching distribution"));
}

#[test]
fn lines_that_lead_past_the_mirror_are_told_by_file_and_line() {
    needs_sandbox!();
    let field = field();
    mirror(&field, &[Package::wheel("app", "1.0")]);
    let write = |name: &str, text: &str| std::fs::write(field.file(name), text).unwrap();
    write("r.txt", "app\n--extra-index-url https://elsewhere.example/simple\n-r more.txt\n");
    write("more.txt", "# x\n\nother @ https://files.example/other-1.0-py3-none-any.whl\n");
    let (report, code) = check(&field, &["-r", &field.file("r.txt")]);
    assert_eq!(code, Some(1));
    let escapes = report["escapes"].as_array().unwrap();
    let told: Vec<(&str, u64, bool)> = escapes
        .iter()
        .map(|e| {
            (
                e["file"].as_str().unwrap().rsplit('/').next().unwrap(),
                e["line"].as_u64().unwrap(),
                e["held_by"].is_string(),
            )
        })
        .collect();
    assert_eq!(told, [("r.txt", 2, true), ("more.txt", 3, false)], "{report:#}");
    assert_eq!(names(&report, "packages", "name"), ["app"]);
}

#[test]
fn a_lock_file_is_held_against_the_mirror_by_hash() {
    needs_sandbox!();
    let field = field();
    let app = Package::wheel("app", "1.0");
    mirror(&field, &[app.clone(), Package::wheel("lib", "1.0")]);
    let entry = |name: &str, hash: &str| {
        format!(
            "[[package]]\nname = \"{name}\"\nversion = \"1.0\"\nsource = {{ registry = \"https://registry.example/simple\" }}\nwheels = [{{ url = \"https://files.example/{name}-1.0-py3-none-any.whl\", hash = \"sha256:{hash}\" }}]\n"
        )
    };
    let wrong = "0".repeat(64);
    let lock = format!("version = 1\n{}{}{}", entry("app", &app.sha256()), entry("lib", &wrong), entry("gone", &wrong));
    std::fs::write(field.file("uv.lock"), lock).unwrap();
    let (report, code) = check(&field, &["--lock", &field.file("uv.lock")]);
    assert_eq!(code, Some(1));
    assert_eq!(names(&report, "missing", "requirement"), ["lib==1.0", "gone==1.0"], "{report:#}");
    assert!(report["missing"][0]["why"].as_str().unwrap().contains("another hash"), "{report:#}");
    assert_eq!(report["escapes"].as_array().unwrap().len(), 3);
}

#[test]
fn bad_input_is_refused_with_the_next_step() {
    needs_sandbox!();
    let field = field();
    mirror(&field, &[Package::wheel("app", "1.0")]);
    let without = field.dropcloth(["check", "./rootfs", "app"]).output().unwrap();
    let table = [
        (field.with_mirror(&["check"], &[]), "nothing to check"),
        (without, "--mirror DIR"),
        (field.with_mirror(&["check", "--python", "/opt/none/python"], &["app"]), "was not found"),
        (field.with_mirror(&["check"], &["-r", "none.txt"]), "none.txt"),
    ];
    for (output, words) in table {
        assert!([Some(125), Some(127)].contains(&output.status.code()), "{words}");
        assert!(stderr(&output).contains(words), "{words}: {}", stderr(&output));
    }
}

/// pip's own answer: the defaults of its install command once every file and variable is read.
const ASK_PIP: &str = "
from pip._internal.commands import create_command
d = create_command('install').parser.get_default_values()
print('index-url', d.index_url)
print('extra-index-url', *d.extra_index_urls)
print('find-links', *d.find_links)
print('no-index', bool(d.no_index))
print('timeout', int(d.timeout))
";

/// Files of an image, variables of the caller.
type Case = (&'static [(&'static str, &'static str)], &'static [(&'static str, &'static str)]);

mod as_root {
    use super::*;

    #[test]
    fn explain_says_what_pip_says_by_chroot_and_with_dropcloth() {
        needs_root!();
        let field = field_of_its_own();
        mirror(&field, &[Package::wheel("app", "1.0")]);
        let cases: [Case; 6] = [
            (&[], &[]),
            (
                &[
                    ("etc/pip.conf", "[install]\nindex-url=http://corp/\n"),
                    (
                        "root/.config/pip/pip.conf",
                        "[global]\nindex-url=http://user/\nextra-index-url=\n  http://x/\n  http://y/\n",
                    ),
                ],
                &[],
            ),
            (
                &[
                    ("etc/xdg/pip/pip.conf", "[global]\nfind-links=/a /b\n"),
                    ("root/.pip/pip.conf", "[global]\nfind-links=\n"),
                ],
                &[],
            ),
            (
                &[("usr/pip.conf", "[global]\nno-index=true\n[download]\nindex-url=http://no/\n")],
                &[("PIP_TIMEOUT", "7")],
            ),
            (
                &[
                    ("other.conf", "[global]\nindex-url=http://named/\n"),
                    ("root/.pip/pip.conf", "[global]\ntimeout=3\n"),
                ],
                &[("PIP_CONFIG_FILE", "/other.conf")],
            ),
            (
                &[("etc/pip.conf", "[global]\nindex-url=http://etc/\n")],
                &[("PIP_INDEX_URL", "http://env/"), ("PIP_EXTRA_INDEX_URL", "")],
            ),
        ];
        for (files, variables) in cases {
            for (path, text) in files {
                let path = field.root.join(path);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, text).unwrap();
            }
            let mirror = field.file("mirror");
            let explain = ["explain", "--json", "--offline", "--mirror", &mirror, "./rootfs", "pip"];
            let explained = field.dropcloth(explain).envs(variables.iter().copied()).output().unwrap();
            assert_code(&explained, 0);
            let explained: serde_json::Value = serde_json::from_slice(&explained.stdout).unwrap();
            let mut chroot = std::process::Command::new("/usr/sbin/chroot");
            chroot.arg(&field.root).args(["/usr/bin/python3", "-c", ASK_PIP]).env_clear().env("HOME", "/root");
            let by_chroot = chroot.envs(variables.iter().copied()).output().unwrap();
            let with = [
                "run",
                "--mode",
                "discard",
                "--offline",
                "--mirror",
                &mirror,
                "./rootfs",
                "--",
                "python3",
                "-c",
                ASK_PIP,
            ];
            let with = field.dropcloth(with).output().unwrap();
            for (side, real) in [("without", by_chroot), ("with", with)] {
                assert_code(&real, 0);
                compare(&explained["tools"][0][side], &stdout(&real), &format!("{side} {files:?} {variables:?}"));
            }
            files.iter().for_each(|(path, _)| std::fs::remove_file(field.root.join(path)).unwrap());
        }
    }
}

/// Where nothing is set pip prints its default, which explain leaves to pip.
fn compare(settings: &serde_json::Value, real: &str, what: &str) {
    for line in real.lines() {
        let (key, value) = line.split_once(' ').unwrap_or((line, ""));
        let setting = settings.as_array().unwrap().iter().find(|s| s["key"] == key).unwrap();
        let holds = setting["holds"].as_array().unwrap();
        let values: Vec<&str> =
            holds.iter().flat_map(|said| said["values"].as_array().unwrap()).map(|v| v.as_str().unwrap()).collect();
        let default = ["https://pypi.org/simple", "", "False", "15", "15.0"].contains(&value);
        let said = match (key, values.join(" ").as_str()) {
            ("no-index", "1" | "true") => "True".to_owned(),
            (_, joined) => joined.to_owned(),
        };
        assert!(said == value || values.is_empty() && default, "{what}: {key}: explain {said:?}, pip {value:?}");
    }
}

#[test]
fn explain_finds_every_environment_with_a_file_of_its_own() {
    needs_sandbox!();
    let field = field_of_its_own();
    mirror(&field, &[Package::wheel("app", "1.0")]);
    let deep = "usr/share/deep/in/venv";
    std::fs::create_dir_all(field.root.join(deep).join("bin")).unwrap();
    for (path, text) in [("pyvenv.cfg", ""), ("pip.conf", "[global]\nextra-index-url = http://deep/\n")] {
        std::fs::write(field.root.join(deep).join(path), text).unwrap();
    }
    let output = field.with_mirror(&["explain"], &["pip"]);
    let text = stdout(&output);
    let part = text.split("pip in ").find(|part| part.starts_with(&format!("/{deep}"))).unwrap();
    assert!(part.contains("http://deep/  /usr/share/deep/in/venv/pip.conf [global]"), "{text}");
}
