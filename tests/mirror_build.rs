//! `dropcloth mirror build` with the Debian root's own pip, from an index that is served on this machine.
#![allow(missing_docs, clippy::disallowed_methods, reason = "a test starts programs and clears up after itself")]

#[path = "support/mirrors.rs"]
mod mirrors;
#[path = "support/packages.rs"]
mod packages;
mod support;

use std::process::Output;

use mirrors::{Ground, Served};
use packages::Package;
use support::{assert_code, debian_root, stderr};

/// `dropcloth mirror build` of the Debian root into `new`, from this index.
fn build(ground: &Ground, index: &Served, options: &[&str]) -> Output {
    let root = debian_root();
    let fixed = ["build", "--no-official", "--index", &index.url, "--into", "new", "--for", root.to_str().unwrap()];
    ground.mirror(&[&fixed, options].concat())
}

/// An index with pip, setuptools and wheel of the test mirror beside these.
fn index(ground: &Ground, packages: &[Package]) -> Served {
    let always = support::mirror();
    std::fs::create_dir(ground.path("m")).unwrap();
    for name in ["pip", "setuptools", "wheel", "packaging"] {
        support::copy(&always.join(name), &ground.path("m").join(name));
    }
    ground.indexed(packages);
    Served::start(ground, "m")
}

fn has(ground: &Ground, place: &str) -> bool {
    ground.path("new").join(place).is_file()
}

#[test]
fn a_mirror_has_all_that_builds_need_and_is_enough_without_a_network() {
    needs_sandbox!();
    let ground = Ground::new();
    support::copy(&support::mirror(), &ground.path("m"));
    let served = Served::start(&ground, "m");
    let root = debian_root();
    let before = support::tree::snapshot(&root);
    // Built by flit_core, by setuptools with a plugin, and without pyproject.toml.
    let wanted = ["flask", "pyproject_hooks", "tabulate", "docopt"];
    assert_code(&build(&ground, &served, &wanted), 0);
    for folder in ["flask", "werkzeug", "flit-core", "setuptools-scm", "pip", "setuptools", "wheel"] {
        assert!(has(&ground, &format!("{folder}/index.html")), "{folder}");
    }
    assert!(!ground.path("new/.dropcloth-new").exists() && !ground.path("new/requests").exists());
    assert_code(&ground.mirror(&["verify", "new"]), 0);
    // Whatever is there already is not asked for again: the index has it no more.
    for project in std::fs::read_dir(ground.path("m")).unwrap().flatten().filter(|e| e.path().is_dir()) {
        for file in std::fs::read_dir(project.path()).unwrap().flatten().filter(|e| e.file_name() != "index.html") {
            std::fs::remove_file(file.path()).unwrap();
        }
    }
    let again = build(&ground, &served, &wanted);
    assert_code(&again, 0);
    assert!(stderr(&again).contains("0 of them new"), "{}", stderr(&again));
    drop(served);
    let root = root.to_str().unwrap();
    let fixed = ["run", "--mode", "discard", "--offline", "--mirror", "new", root, "--"];
    let install = ["pip", "install", "--quiet", "--break-system-packages"];
    assert_code(&ground.dropcloth(&[&fixed[..], &install, &wanted].concat()).output().unwrap(), 0);
    support::tree::assert_same(&before, &support::tree::snapshot(&debian_root()), "building a mirror");
}

#[test]
fn files_of_other_requests_are_only_added_to_when_asked() {
    needs_sandbox!();
    let ground = Ground::new();
    let packages =
        [Package::wheel("app", "1.0").needs("lib>=2"), Package::wheel("lib", "2.5"), Package::wheel("b", "1")];
    let served = index(&ground, &packages);
    ground.write("r.txt", "-r more.txt\n");
    ground.write("more.txt", "app # why\n-c c.txt\n");
    ground.write("c.txt", "lib<3\n");
    assert_code(&build(&ground, &served, &["-r", "r.txt"]), 0);
    assert!(has(&ground, "lib/lib-2.5-py3-none-any.whl") && !has(&ground, "b/index.html"));
    let other = build(&ground, &served, &["b"]);
    assert_code(&other, 125);
    assert!(stderr(&other).contains("--add") && !has(&ground, "b/index.html"), "{}", stderr(&other));
    assert_code(&build(&ground, &served, &["b", "--add"]), 0);
    assert!(has(&ground, "b/b-1-py3-none-any.whl") && has(&ground, "app/app-1.0-py3-none-any.whl"));
    assert_code(&build(&ground, &served, &["-r", "r.txt"]), 0);
}

#[test]
fn a_lock_brings_exactly_its_files() {
    needs_sandbox!();
    let ground = Ground::new();
    let app = Package::wheel("app", "1.0").needs("lib");
    let served = index(&ground, &[app.clone(), Package::wheel("app", "2.0"), Package::wheel("lib", "1.0")]);
    let entry = |hash: &str| {
        format!(
            "version = 1\n[[package]]\nname = \"app\"\nversion = \"1.0\"\nwheels = [\n {{ url = \"https://files.example/app-1.0-py3-none-any.whl\", hash = \"sha256:{hash}\" }},\n {{ url = \"https://files.example/app-1.0-cp39-cp39-win32.whl\", hash = \"sha256:00\" }},\n]\n"
        )
    };
    ground.write("uv.lock", entry(&app.sha256()));
    assert_code(&build(&ground, &served, &["--lock", "uv.lock"]), 0);
    assert!(has(&ground, "app/app-1.0-py3-none-any.whl") && !has(&ground, "lib/index.html"));
    ground.write("uv.lock", entry(&"0".repeat(64)));
    let wrong = build(&ground, &served, &["--lock", "uv.lock", "--add"]);
    assert_code(&wrong, 125);
    assert!(stderr(&wrong).contains("HASHES"), "{}", stderr(&wrong));
}

#[test]
fn what_cannot_be_downloaded_is_said_by_pip_and_nothing_half_is_in_the_mirror() {
    needs_sandbox!();
    let ground = Ground::new();
    let served = index(&ground, &[Package::wheel("app", "1.0").needs("gone"), Package::wheel("b", "1")]);
    let output = build(&ground, &served, &["app"]);
    assert_code(&output, 125);
    let said = stderr(&output);
    assert!(
        said.contains("No matching distribution found for gone") && said.contains("run the same command"),
        "{said}"
    );
    assert!(!has(&ground, "app/index.html"));
    let table =
        [(&[][..], "nothing to build"), (&["b", "--python", "/none"], "was not found"), (&["-r", "none"], "none")];
    for (options, words) in table {
        let output = build(&ground, &served, options);
        assert!(!output.status.success() && stderr(&output).contains(words), "{}", stderr(&output));
    }
    assert_code(&build(&ground, &served, &["b"]), 0);
}

#[test]
fn a_killed_build_leaves_a_mirror_that_the_next_one_finishes() {
    needs_sandbox!();
    let ground = Ground::new();
    let served = index(&ground, &[Package::wheel("app", "1.0").needs("lib"), Package::wheel("lib", "1.0")]);
    let root = debian_root();
    std::fs::create_dir(ground.path("new")).unwrap();
    let arguments = ["mirror", "build", "--no-official", "--index", &served.url, "--into", "new", "--for"];
    for milliseconds in [300, 1500, 3000] {
        let mut child = ground.dropcloth(&[&arguments[..], &[root.to_str().unwrap(), "app"]].concat()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(milliseconds));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_code(&ground.mirror(&["verify", "new"]), 0);
    }
    assert_code(&build(&ground, &served, &["app"]), 0);
    assert!(has(&ground, "lib/lib-1.0-py3-none-any.whl") && !ground.path("new/.dropcloth-new").exists());
}

/// A Python that answers as the probe does, and a pip that leaves links instead of files.
const HOSTILE: &str = r#"#!/bin/sh
[ "$1" = -c ] && exec echo '{"python": "3.11.2", "pip": "24", "tags": ["py3-none-any"], "environment": {
    "python_version": "3.11", "python_full_version": "3.11.2", "implementation_version": "3.11.2"}}'
cd /tmp/dropcloth-new
ln -s /etc/passwd files/a-1-py3-none-any.whl
ln -s ../../../secret files/b-1.tar.gz
mkdir files/c-1.tar.gz
mkfifo files/d-1.tar.gz
rm -rf files && ln -s /etc files
true
"#;

#[test]
fn links_that_a_hostile_pip_leaves_lead_nowhere() {
    needs_sandbox!();
    let field = support::Field::small();
    let ground = Ground::new();
    ground.write("secret", "secret");
    let python = field.root.join("bin/python");
    std::fs::write(&python, HOSTILE).unwrap();
    std::fs::set_permissions(&python, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let root = field.root.to_str().unwrap();
    for _ in 0..2 {
        let output = ground.mirror(&["build", "--for", root, "--python", "/bin/python", "--into", "new", "a"]);
        assert_code(&output, 0);
        assert!(stderr(&output).contains("0 files for"), "{}", stderr(&output));
        let there: Vec<_> = std::fs::read_dir(ground.path("new")).unwrap().flatten().map(|e| e.file_name()).collect();
        assert!(
            there
                .iter()
                .all(|name| name.to_str().unwrap().ends_with(".html")
                    || name.to_str().unwrap().starts_with(".dropcloth-")),
            "{there:?}"
        );
    }
    assert_eq!(ground.read("secret"), "secret");
}

#[test]
fn what_is_not_needed_any_more_goes_when_asked_and_nothing_that_others_brought() {
    needs_sandbox!();
    let ground = Ground::new();
    let packages = [Package::wheel("app", "1.0").needs("lib"), Package::wheel("lib", "1.0"), Package::wheel("b", "1")];
    let served = index(&ground, &packages);
    assert_code(&build(&ground, &served, &["app"]), 0);
    ground.write("new/mine-1.0-py3-none-any.whl", Package::wheel("mine", "1.0").bytes());
    let output = build(&ground, &served, &["b", "--prune"]);
    assert_code(&output, 0);
    let said = stderr(&output);
    assert!(said.contains("removed app/app-1.0-py3-none-any.whl") && said.contains("removed lib/lib-1.0"), "{said}");
    assert!(!said.contains("mine") && !said.contains("removed pip/"), "{said}");
    assert!(!ground.path("new/app").exists() && has(&ground, "b/b-1-py3-none-any.whl"));
    assert!(has(&ground, "mine/mine-1.0-py3-none-any.whl") && has(&ground, "pip/index.html"));
    assert!(!ground.read("new/links.html").contains("app-1.0") && !ground.read("new/index.html").contains("app/"));
    assert_code(&ground.mirror(&["verify", "new"]), 0);
    let again = build(&ground, &served, &["b", "--prune"]);
    assert!(!stderr(&again).contains("removed"), "{}", stderr(&again));
    assert!(stderr(&build(&ground, &served, &["b", "--prune=all"])).contains("removed mine/mine-1.0"));
    assert!(!ground.path("new/mine").exists());
    // A directory that somebody else has filled is refused as ever.
    ground.write("other/mine-1.0-py3-none-any.whl", Package::wheel("mine", "1.0").bytes());
    let root = debian_root();
    let other = ["build", "--no-official", "--index", &served.url, "--into", "other", "--for", root.to_str().unwrap()];
    assert_code(&ground.mirror(&[&other[..], &["b", "--prune"]].concat()), 125);
    assert_code(&ground.mirror(&[&other[..], &["b", "--prune", "--add"]].concat()), 0);
    assert!(ground.path("other/mine/mine-1.0-py3-none-any.whl").is_file());
}

/// Says in the JSON page of every project when its files were uploaded.
fn uploaded(ground: &Ground, time: &dyn Fn(&str) -> Option<&'static str>) {
    for folder in std::fs::read_dir(ground.path("m")).unwrap().flatten().filter(|entry| entry.path().is_dir()) {
        let page = folder.path().join("index.json");
        let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(&page).unwrap()).unwrap();
        for file in json["files"].as_array_mut().unwrap() {
            if let Some(time) = time(file["filename"].as_str().unwrap()) {
                file["upload-time"] = time.into();
            }
        }
        std::fs::write(page, json.to_string()).unwrap();
    }
}

#[test]
fn a_mirror_as_of_a_day_has_nothing_that_came_later() {
    needs_sandbox!();
    let ground = Ground::new();
    let packages =
        [Package::wheel("app", "1.0").needs("lib"), Package::wheel("lib", "1.0"), Package::wheel("lib", "2.0")];
    let served = index(&ground, &packages);
    uploaded(&ground, &|file| {
        Some(if file.starts_with("lib-2") { "2026-02-01T00:00:00Z" } else { "2026-01-31T23:00:00.5Z" })
    });
    let output = build(&ground, &served, &["app", "--as-of", "2026-01-31"]);
    assert_code(&output, 0);
    assert!(has(&ground, "lib/lib-1.0-py3-none-any.whl") && !has(&ground, "lib/lib-2.0-py3-none-any.whl"));
    // What came later is not taken from the mirror itself either, and what is there is not downloaded again.
    assert_code(&build(&ground, &served, &["lib", "--add"]), 0);
    assert!(has(&ground, "lib/lib-2.0-py3-none-any.whl"));
    for entry in std::fs::read_dir(ground.path("m/lib")).unwrap().flatten() {
        if entry.file_name().to_str().unwrap().ends_with(".whl") {
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
    let output = build(&ground, &served, &["app", "--as-of", "2026-01-31", "--prune"]);
    assert_code(&output, 0);
    assert!(stderr(&output).contains("removed lib/lib-2.0") && stderr(&output).contains("0 of them new"));
    for (date, words) in [("yesterday", "neither a day nor a time"), ("2026-01-30", "No matching distribution")] {
        let output = build(&ground, &served, &["app", "--as-of", date, "--add"]);
        assert_code(&output, 125);
        assert!(stderr(&output).contains(words), "{}", stderr(&output));
    }
}

#[test]
fn an_index_without_times_of_upload_cannot_be_looked_back_at() {
    needs_sandbox!();
    let ground = Ground::new();
    let served = index(&ground, &[Package::wheel("app", "1.0")]);
    let output = build(&ground, &served, &["app", "--as-of", "2026-01-31"]);
    assert_code(&output, 125);
    let said = stderr(&output);
    assert!(
        said.contains("does not say when app-1.0-py3-none-any.whl was uploaded") && said.contains("PEP 700"),
        "{said}"
    );
}

#[test]
fn without_a_place_it_is_the_mirror_that_runs_use() {
    needs_sandbox!();
    let ground = Ground::new();
    let served = index(&ground, &[Package::wheel("app", "1.0")]);
    let root = debian_root();
    let root = root.to_str().unwrap();
    let arguments = ["build", "--no-official", "--index", &served.url, "--for", root, "app"];
    assert_code(&ground.mirror(&arguments), 0);
    let install = ["pip", "install", "--quiet", "--break-system-packages", "app"];
    let run = [&["run", "--mode", "discard", "--offline", root, "--"], &install[..]].concat();
    assert_code(&ground.dropcloth(&run).output().unwrap(), 0);
}
