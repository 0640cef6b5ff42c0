//! What indexes serve to a step, written down, and the mirror that is made of it.
#![allow(missing_docs, clippy::disallowed_methods, reason = "a test starts programs and clears up after itself")]

#[path = "support/mirrors.rs"]
mod mirrors;
#[path = "support/packages.rs"]
mod packages;
mod support;

use std::path::Path;
use std::process::Output;

use mirrors::{Ground, Served, app};
use packages::Package;
use serde_json::Value;
use support::{Field, assert_code, stderr, stdout};

/// Time of all that the steps write, so that two of them can be the same.
const EPOCH: [&str; 2] = ["--source-date-epoch", "1700000000"];

fn lines(ground: &Ground, name: &str) -> Vec<Value> {
    ground.read(name).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// File names of one kind, sorted.
fn of(record: &[Value], kind: &str) -> Vec<String> {
    let mut names: Vec<String> = record
        .iter()
        .filter(|served| served["kind"] == kind)
        .map(|served| served["file"].as_str().unwrap_or_default().to_owned())
        .collect();
    names.sort();
    names
}

fn run(ground: &Ground, root: &Path, options: &[&str], command: &[&str]) -> Output {
    let fixed = [&["run"], options, &[root.to_str().unwrap(), "--"], command].concat();
    ground.dropcloth(&fixed).output().unwrap()
}

const PIP: [&str; 5] = ["pip", "install", "--quiet", "--break-system-packages", "--no-warn-script-location"];

#[test]
fn a_step_on_the_recorded_mirror_without_a_network_leaves_the_same_tree() {
    needs_sandbox!();
    let ground = Ground::new();
    let mirror = support::mirror();
    let (first, second) = (Field::of(&support::debian_root()), Field::of(&support::debian_root()));
    // A wheel of a platform, and sdists that are built by what the index serves, too.
    let command = [&PIP[..], &["flask", "docopt", "pyproject_hooks"]].concat();
    let options = ["--offline", "--mirror", mirror.to_str().unwrap(), "--record", "record"];
    let output = run(&ground, &first.root, &[&EPOCH[..], &options].concat(), &command);
    assert_code(&output, 0);
    let record = lines(&ground, "record");
    let files = of(&record, "file");
    for name in ["docopt-0.6.2.tar.gz", "flask-3.1.3-py3-none-any.whl", "flit_core-3.12.0-py3-none-any.whl"] {
        assert!(files.iter().any(|file| file == name), "{name}: {files:?}");
    }
    for served in record.iter().filter(|served| served["kind"] == "file") {
        let path = mirror.join(served["project"].as_str().unwrap()).join(served["file"].as_str().unwrap());
        let size = std::fs::metadata(&path).unwrap().len();
        assert_eq!((&served["index"], served["size"].as_u64()), (&Value::from("file:///tmp/pypi"), Some(size)));
    }
    let build = ["build", "--from-record", "record", "--mirror", mirror.to_str().unwrap(), "--into", "new"];
    assert_code(&ground.mirror(&build), 0);
    assert_code(&ground.mirror(&["verify", "new"]), 0);
    assert_eq!(count(&ground.path("new")), files.len(), "what the step got and no more");
    let options = ["--network", "none", "--mirror", "new"];
    let output = run(&ground, &second.root, &[&EPOCH[..], &options].concat(), &command);
    assert_code(&output, 0);
    support::tree::assert_same(&first.snapshot(), &second.snapshot(), "the replay");
}

fn count(mirror: &Path) -> usize {
    let folders = std::fs::read_dir(mirror).unwrap().flatten().map(|entry| entry.path()).filter(|path| path.is_dir());
    let files = folders.flat_map(|folder| std::fs::read_dir(folder).unwrap().flatten());
    files.filter(|file| [".whl", ".gz"].iter().any(|end| file.file_name().to_str().unwrap().ends_with(end))).count()
}

#[test]
fn indexes_on_the_network_are_passed_through_file_by_file() {
    needs_sandbox!();
    let ground = Ground::new();
    ground.indexed(&[app(), vec![Package::sdist("unused", "1.0")]].concat());
    let served = Served::start(&ground, "m");
    let field = Field::of(&support::debian_root());
    let with_password = served.url.replace("http://", "http://me:secret@");
    let options = ["--mode", "discard", "--no-official", "--index", &with_password, "--record", "record"];
    let output = run(&ground, &field.root, &options, &[&PIP[..], &["app"]].concat());
    assert_code(&output, 0);
    assert!(!ground.read("record").contains("secret"));
    let record = lines(&ground, "record");
    assert_eq!(of(&record, "file"), ["app-1.0-py3-none-any.whl", "lib-2.5-py3-none-any.whl"]);
    assert_eq!(of(&record, "page").len(), 2);
    let app = record.iter().find(|served| served["file"] == "app-1.0-py3-none-any.whl").unwrap();
    assert_eq!(app["url"], format!("{}app/app-1.0-py3-none-any.whl", served.url));
    assert_eq!(app["sha256"].as_str().unwrap(), Package::wheel("app", "1.0").needs("lib>=2").sha256());
    // Nothing is on this machine: everything is downloaded.
    let build = ["build", "--from-record", "record", "--mirror", "nowhere", "--index", &with_password, "--into", "new"];
    assert_code(&ground.mirror(&build), 0);
    assert_eq!(count(&ground.path("new")), 2);
    drop(served);
    let again = ground.mirror(&build);
    assert_code(&again, 0);
    assert!(stderr(&again).contains("0 of them new"), "{}", stderr(&again));
    let options = ["--mode", "discard", "--network", "none", "--mirror", "new"];
    assert_code(&run(&ground, &field.root, &options, &[&PIP[..], &["app"]].concat()), 0);
}

#[test]
fn a_step_that_fails_leaves_its_record_and_reads_the_mirror_by_nothing_else() {
    needs_sandbox!();
    let ground = Ground::new();
    ground.indexed(&app());
    let field = Field::small();
    let script =
        "wget -q -O /dev/null $(sed -n 's/^index-url = //p' /etc/pip.conf | head -n 1)/lib/lib-1.0-py3-none-any.whl
        ls /tmp/pypi; exit 7";
    let options = ["--offline", "--mirror", "m", "--record", "record"];
    let output = run(&ground, &field.root, &options, &["sh", "-c", script]);
    assert_code(&output, 7);
    assert_eq!(stdout(&output), "");
    assert_eq!(of(&lines(&ground, "record"), "file"), ["lib-1.0-py3-none-any.whl"]);
    let script = "B=$(sed -n 's/^index-url = //p' /etc/pip.conf | head -n 1); for p in /x /../../etc/passwd /app/..%2f..%2fetc%2fpasswd /lib; do
        wget -q -O - $B$p | grep -c lib-1.0; done; true";
    let output = run(&ground, &field.root, &options, &["sh", "-c", script]);
    assert_eq!(stdout(&output), "0\n0\n0\n1\n", "{}", stderr(&output));
}

#[test]
fn a_record_brings_exactly_its_files_or_nothing() {
    needs_sandbox!();
    let ground = Ground::new();
    ground.indexed(&app());
    let file = ground.path("m/app/app-1.0-py3-none-any.whl");
    let sha256 = Package::wheel("app", "1.0").needs("lib>=2").sha256();
    let line = |project: &str, file: &str, sha256: &str| {
        format!(
            "{{\"kind\":\"file\",\"index\":\"file:///tmp/pypi\",\"project\":\"{project}\",\"file\":\"{file}\",\"url\":\"file:///tmp/pypi/x\",\"sha256\":\"{sha256}\",\"size\":1}}\n"
        )
    };
    let good = line("app", "app-1.0-py3-none-any.whl", &sha256);
    let other = line("app", "app-1.0-py3-none-any.whl", &"0".repeat(64));
    let table = [
        (other.clone(), "no file of that name has sha256"),
        (format!("{good}{other}"), "two files"),
        (line("app", "../../app-1.0-py3-none-any.whl", &sha256), "no file of"),
        (line("../app", "app-1.0-py3-none-any.whl", &sha256), "no file of"),
        (line("app", "app-1.0-py3-none-any.whl", "../../x"), "no file of"),
        ("nothing\n".to_owned(), "line 1"),
    ];
    let build = ["build", "--from-record", "record", "--mirror", "m", "--into", "new"];
    for (text, words) in table {
        ground.write("record", &text);
        let output = ground.mirror(&build);
        assert_code(&output, 125);
        assert!(stderr(&output).contains(words), "{words}: {}", stderr(&output));
        assert!(!ground.path("new/app").exists());
    }
    ground.write("record", good.replace("\"size\":1", "\"size\":1,\"yanked\":\"broken\""));
    assert_code(&ground.mirror(&build), 0);
    assert_eq!(std::fs::read(ground.path("new/app/app-1.0-py3-none-any.whl")).unwrap(), std::fs::read(file).unwrap());
    assert!(ground.read("new/app/index.html").contains("data-yanked=\"broken\""));
}

/// The tools are in a root that root makes.
mod as_root {
    use super::*;

    #[test]
    fn old_and_new_pips_and_uv_are_recorded_alike() {
        needs_root!();
        let root = support::made(&["make-tools"], "roots/tools");
        let ground = Ground::new();
        ground.indexed(&app());
        for tool in mirrors::INSTALLERS {
            let script = match tool {
                "uv" => "/opt/tools/uv/bin/uv pip install --target /tmp/t app".to_owned(),
                pip => format!("/opt/tools/{pip}/bin/python -m pip install --target /tmp/t app"),
            };
            for network in [&["--offline"][..], &["--no-official"]] {
                let options = [&["--mode", "discard", "--mirror", "m", "--record", "record"][..], network].concat();
                let output = run(&ground, &root, &options, &["sh", "-c", &script]);
                assert_code(&output, 0);
                let files = of(&lines(&ground, "record"), "file");
                assert_eq!(files, ["app-1.0-py3-none-any.whl", "lib-2.5-py3-none-any.whl"], "{tool} {network:?}");
            }
        }
    }
}
