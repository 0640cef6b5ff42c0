//! Broken mirrors: what `dropcloth mirror verify` calls them, held against what the real pip and uv do with them.
#![allow(missing_docs, clippy::disallowed_methods, reason = "a test starts programs and clears up after itself")]

#[path = "support/mirrors.rs"]
mod mirrors;
#[path = "support/packages.rs"]
mod packages;
mod support;

use mirrors::{Ground, INSTALLERS, Served, app};
use packages::Package;
use sha2::{Digest, Sha256};
use support::stderr;

/// How a mirror is broken, what verify calls it, and who cannot install `app` then.
struct Broken {
    name: &'static str,
    break_it: fn(&Ground),
    fault: Option<&'static str>,
    breaks: &'static [&'static str],
}

const WHEEL: &str = "m/app/app-1.0-py3-none-any.whl";
/// pip 20 knows no metadata files, pip 22 only those that a page tells of by the older name.
const NEW_PIPS: &[&str] = &["pip26"];
const ALL: &[&str] = &INSTALLERS;

/// The digest that the page gives for `what`, replaced by another.
fn other_digest(ground: &Ground, before: &str) {
    let page = ground.read("m/app/index.html");
    let at = page.find(before).unwrap() + before.len();
    let other = "0".repeat(64);
    ground.write("m/app/index.html", page.replace(&page[at..at + 64], &other));
}

fn with_algorithm(ground: &Ground, algorithm: &str, length: usize) {
    let page = ground.read("m/app/index.html");
    let at = page.find("#sha256=").unwrap();
    let digest = "0".repeat(length);
    ground.write("m/app/index.html", page.replace(&page[at..at + 72], &format!("#{algorithm}={digest}")));
}

const TABLE: &[Broken] = &[
    Broken { name: "whole", break_it: |_| {}, fault: None, breaks: &[] },
    Broken {
        name: "metadata missing",
        break_it: |g| std::fs::remove_file(g.path(&format!("{WHEEL}.metadata"))).unwrap(),
        fault: Some("metadata-missing"),
        breaks: NEW_PIPS,
    },
    Broken {
        name: "metadata hash",
        break_it: |g| other_digest(g, "data-core-metadata=\"sha256="),
        fault: Some("metadata-hash"),
        breaks: NEW_PIPS,
    },
    Broken {
        name: "metadata of another wheel",
        break_it: |g| {
            let old = Sha256::digest(g.read(&format!("{WHEEL}.metadata")));
            let new = "Metadata-Version: 2.1\nName: app\nVersion: 1.0\nRequires-Dist: gone\n";
            g.write(&format!("{WHEEL}.metadata"), new);
            let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            g.edit("m/app/index.html", &hex(&old), &hex(&Sha256::digest(new)));
        },
        fault: Some("metadata-contents"),
        breaks: NEW_PIPS,
    },
    Broken {
        name: "metadata by the older name, spelled in another way",
        break_it: |g| {
            std::fs::remove_file(g.path(WHEEL)).unwrap();
            g.indexed(&[Package::wheel("App", "1.0")]);
            g.edit("m/app/index.html", "data-core-metadata", "data-dist-info-metadata");
        },
        fault: Some("metadata-old-name"),
        breaks: &["pip22"],
    },
    Broken { name: "file hash", break_it: |g| other_digest(g, "#sha256="), fault: Some("file-hash"), breaks: ALL },
    Broken {
        name: "link to a host",
        break_it: |g| g.edit("m/app/index.html", "href=\"", "href=\"https://files.example/"),
        fault: Some("leads-elsewhere"),
        breaks: ALL,
    },
    Broken {
        name: "name not normalized",
        break_it: |g| std::fs::rename(g.path("m/app"), g.path("m/App")).unwrap(),
        fault: Some("not-normalized"),
        breaks: ALL,
    },
    Broken {
        name: "blake2b_256",
        break_it: |g| with_algorithm(g, "blake2b_256", 64),
        fault: Some("unknown-hash"),
        breaks: &["uv"],
    },
    Broken {
        name: "file missing",
        break_it: |g| {
            std::fs::remove_file(g.path(WHEEL)).unwrap();
        },
        fault: Some("file-missing"),
        breaks: ALL,
    },
    Broken {
        name: "link out of the mirror",
        break_it: |g| {
            std::fs::rename(g.path(WHEEL), g.path("outside.whl")).unwrap();
            std::os::unix::fs::symlink(g.path("outside.whl"), g.path(WHEEL)).unwrap();
        },
        fault: Some("file-missing"),
        breaks: ALL,
    },
    Broken {
        name: "simple below",
        break_it: |g| {
            std::fs::rename(g.path("m"), g.path("simple")).unwrap();
            std::fs::create_dir(g.path("m")).unwrap();
            std::fs::rename(g.path("simple"), g.path("m/simple")).unwrap();
        },
        fault: Some("nested"),
        breaks: ALL,
    },
    Broken {
        name: "no page",
        break_it: |g| std::fs::remove_file(g.path("m/app/index.html")).unwrap(),
        fault: Some("no-page"),
        breaks: ALL,
    },
    Broken {
        name: "flat",
        break_it: |g| {
            std::fs::rename(g.path(WHEEL), g.path("m/app-1.0-py3-none-any.whl")).unwrap();
            std::fs::remove_dir_all(g.path("m/app")).unwrap();
        },
        fault: Some("no-page"),
        breaks: ALL,
    },
    Broken {
        name: "not linked",
        break_it: |g| g.write("m/app/index.html", "<!DOCTYPE html><html></html>"),
        fault: Some("not-linked"),
        breaks: ALL,
    },
    Broken {
        name: "half a wheel",
        break_it: |g| {
            g.write(WHEEL, &app()[0].bytes()[..200]);
            g.write("m/app/index.html", "<a href='app-1.0-py3-none-any.whl'>app-1.0-py3-none-any.whl</a>");
        },
        fault: Some("file-unreadable"),
        breaks: ALL,
    },
    Broken {
        name: "another version inside",
        break_it: |g| {
            g.write(WHEEL, Package::wheel("app", "7").bytes());
            g.write("m/app/index.html", "<a href='app-1.0-py3-none-any.whl'>app-1.0-py3-none-any.whl</a>");
        },
        fault: Some("file-unreadable"),
        breaks: ALL,
    },
    Broken {
        name: "no hash",
        break_it: |g| {
            g.write("m/app/index.html", "<a href='app-1.0-py3-none-any.whl'>app-1.0-py3-none-any.whl</a>");
        },
        fault: None,
        breaks: &[],
    },
    Broken { name: "sha1", break_it: |g| with_algorithm(g, "sha1", 40), fault: Some("unknown-hash"), breaks: ALL },
    Broken { name: "sha224", break_it: |g| with_algorithm(g, "sha224", 56), fault: Some("file-hash"), breaks: ALL },
    Broken { name: "sha384", break_it: |g| with_algorithm(g, "sha384", 96), fault: Some("file-hash"), breaks: ALL },
    Broken { name: "md5", break_it: |g| with_algorithm(g, "md5", 32), fault: Some("file-hash"), breaks: ALL },
];

/// By file uv reads the wheels themselves, by http their metadata files.
fn uv_breaks_by_http(ground: &Ground, told: &[&str]) -> bool {
    if !told.iter().any(|fault| fault.starts_with("metadata-")) {
        return false;
    }
    // Where there is JSON nobody reads the page that was broken.
    std::fs::remove_file(ground.path("m/app/index.json")).unwrap();
    let served = Served::start(ground, "m");
    ground.install(&served.url, "host").iter().any(|(tool, yes, _)| *tool == "uv" && !yes)
}

#[test]
fn verify_calls_broken_what_breaks_the_real_installers() {
    needs_root!();
    let only = std::env::var("DROPCLOTH_MIRROR_CASE").ok();
    let mut failed = Vec::new();
    for case in TABLE.iter().filter(|case| only.as_deref().is_none_or(|name| case.name == name)) {
        let ground = Ground::new();
        ground.indexed(&app());
        (case.break_it)(&ground);
        let output = ground.mirror(&["verify", "--json", "m"]);
        let report: serde_json::Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", stderr(&output)));
        let faults: Vec<&serde_json::Value> = report["faults"].as_array().unwrap().iter().collect();
        let told: Vec<&str> = faults.iter().map(|fault| fault["fault"].as_str().unwrap()).collect();
        let found = ground.install("file:///srv/m", "none");
        let broken: Vec<&str> = found.iter().filter(|(_, yes, _)| !yes).map(|(tool, ..)| *tool).collect();
        let said = |installer: &str| {
            faults.iter().any(|f| f["breaks"].as_array().unwrap().iter().any(|b| b.as_str() == Some(installer)))
        };
        let same =
            said("uv") == broken.contains(&"uv") && said("pip") == broken.iter().any(|tool| tool.starts_with("pip"));
        let as_expected =
            case.fault.is_none_or(|fault| told.contains(&fault)) && case.fault.is_some() != told.is_empty();
        let code = output.status.code() == Some(i32::from(case.fault.is_some()));
        println!("{}: told {told:?}, broken {broken:?}", case.name);
        let same = same && said("uv-by-http") == uv_breaks_by_http(&ground, &told);
        if !(same && as_expected && code && broken == case.breaks) {
            failed.push(format!("{}: {report:#}\n{found:#?}", case.name));
        }
    }
    assert!(failed.is_empty(), "{} cases:\n{}", failed.len(), failed.join("\n----\n"));
}

#[test]
fn json_that_is_none_breaks_those_who_ask_by_http() {
    needs_root!();
    let ground = Ground::new();
    ground.indexed(&app());
    ground.write("m/app/index.json", "{");
    let output = ground.mirror(&["verify", "--json", "m"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["faults"][0]["fault"], "page-unreadable", "{report:#}");
    let served = Served::start(&ground, "m");
    for (tool, yes, said) in ground.install(&served.url, "host") {
        // pip 20 asks for HTML only.
        assert_eq!(yes, tool == "pip20", "{tool}: {said}");
    }
}
