//! `dropcloth mirror`: what it writes and serves, the real pip and uv install from.
#![allow(missing_docs, clippy::disallowed_methods, reason = "a test starts programs and clears up after itself")]

#[path = "support/mirrors.rs"]
mod mirrors;
#[path = "support/packages.rs"]
mod packages;
mod support;

use mirrors::{Ground, Served, app, assert_all_install};
use packages::Package;
use support::{assert_code, stderr, stdout};

#[test]
fn pip_and_uv_install_from_an_indexed_folder_by_file_and_by_http() {
    needs_root!();
    let ground = Ground::new();
    // pip 22.3 to 23.1 refuse a name that metadata files spell in another way; they must not be led to them.
    ground.indexed(&[Package::wheel("app", "1.0").needs("loud.name"), Package::wheel("Loud-Name", "1.0")]);
    assert_all_install(&ground.install("file:///srv/m", "none"));
    let served = Served::start(&ground, "m");
    assert_all_install(&ground.install(&served.url, "host"));
    let found = ground.install("file:///srv/m", "none");
    let pip = &found.iter().find(|(tool, ..)| *tool == "pip26").unwrap().2;
    assert!(pip.contains("app-1.0-py3-none-any.whl.metadata"), "pip reads the metadata file: {pip}");
}

#[test]
fn a_second_index_reads_and_writes_only_what_is_new() {
    let ground = Ground::new();
    let first = ground.indexed(&app());
    assert!(first.contains("indexed 3 files of 2 projects") && first.contains("3 read, 3 moved, 6 pages"), "{first}");
    let times = |name: &str| std::fs::metadata(ground.path(name)).unwrap().modified().unwrap();
    let before = times("m/app/index.html");
    assert!(stderr(&ground.mirror(&["index", "m"])).contains("0 read, 0 moved, 0 pages"));
    let more = ground.indexed(&[Package::sdist("lib", "3.0")]);
    assert!(more.contains("1 read, 1 moved, 3 pages"), "{more}");
    assert_eq!(times("m/app/index.html"), before);
    std::fs::remove_file(ground.path("m/app/app-1.0-py3-none-any.whl")).unwrap();
    assert_code(&ground.mirror(&["index", "m"]), 0);
    assert!(!ground.path("m/app").exists(), "nothing stays of a project without files");
    assert!(!ground.read("m/links.html").contains("app-1.0"));
}

#[test]
fn what_only_pages_know_stays() {
    let ground = Ground::new();
    ground.indexed(&app());
    let wheel = ">lib-1.0-py3-none-any.whl</a>";
    ground.edit("m/lib/index.html", wheel, &format!(" data-yanked=\"&lt;broken&gt;\"{wheel}"));
    for _ in 0..2 {
        assert_code(&ground.mirror(&["index", "m"]), 0);
        assert!(ground.read("m/lib/index.html").contains("data-yanked=\"&lt;broken&gt;\""));
        assert!(ground.read("m/lib/index.json").contains("\"yanked\":\"<broken>\""));
    }
    assert_eq!(ground.read("m/links.html").matches("data-yanked").count(), 1);
    std::fs::remove_file(ground.path("m/.dropcloth-index.json")).unwrap();
    assert_code(&ground.mirror(&["index", "m"]), 0);
    assert!(ground.read("m/lib/index.html").contains("data-yanked"), "the pages are enough to know it");
}

#[test]
fn what_is_no_wheel_is_left_out_and_named() {
    let ground = Ground::new();
    ground.flat(&app());
    ground.write("m/half-1.0-py3-none-any.whl", &app()[0].bytes()[..200]);
    let output = ground.mirror(&["index", "m"]);
    assert_code(&output, 1);
    assert!(stderr(&output).contains("left out: half/half-1.0-py3-none-any.whl"), "{}", stderr(&output));
    assert!(!ground.path("m/half/index.html").exists());
}

#[test]
fn requirements_that_the_mirror_lacks_are_named_with_who_needs_them() {
    let ground = Ground::new();
    let source = Package::sdist("src", "1.0").built_with("no-backend>=1");
    ground.indexed(&[Package::wheel("app", "1.0").needs("lib>=3"), Package::wheel("lib", "2.5"), source]);
    ground.write("r.txt", "app\nsrc==1.0\ngone; python_version < '3'\n");
    let output = ground.mirror(&["verify", "m", "-r", "r.txt"]);
    assert_code(&output, 1);
    let text = stdout(&output);
    for line in [
        "lib>=3: the mirror has 2.5, needed by app",
        "no-backend>=1: the mirror has no file of that name, needed by src",
    ] {
        assert!(text.contains(line), "{text}");
    }
    assert!(!text.contains("gone") && text.contains("dropcloth mirror build --for ROOT"), "{text}");
    ground.write("r.txt", "lib>2\n");
    assert_code(&ground.mirror(&["verify", "m", "-r", "r.txt"]), 0);
}

#[test]
fn parts_of_files_and_what_has_not_changed_are_served_as_the_rfc_has_it() {
    let ground = Ground::new();
    ground.indexed(&app());
    let served = Served::start(&ground, "m");
    let bytes = app()[0].bytes();
    let path = "/simple/app/app-1.0-py3-none-any.whl";
    let (head, body) = served.ask(path, "");
    assert!(head.starts_with("HTTP/1.1 200") && body == bytes, "{head}");
    let field = |name: &str| {
        let line = head.lines().find(|l| l.to_lowercase().starts_with(&format!("{name}:"))).unwrap();
        line.split_once(": ").unwrap().1.to_owned()
    };
    let (tag, date) = (field("etag"), field("last-modified"));
    assert_eq!((field("accept-ranges"), field("content-length")), ("bytes".to_owned(), bytes.len().to_string()));
    let end = bytes.len() - 10;
    let table: [(String, &str, &[u8]); 7] = [
        ("Range: bytes=0-9\r\n".into(), "206", &bytes[..10]),
        ("Range: bytes=-10\r\n".into(), "206", &bytes[end..]),
        (format!("Range: bytes={end}-\r\nIf-Range: {tag}\r\n"), "206", &bytes[end..]),
        (format!("Range: bytes={end}-\r\nIf-Range: \"other\"\r\n"), "200", &bytes),
        ("Range: bytes=999999-\r\n".into(), "416", b""),
        (format!("If-None-Match: {tag}\r\n"), "304", b""),
        (format!("If-Modified-Since: {date}\r\n"), "304", b""),
    ];
    for (headers, status, expected) in table {
        let (head, body) = served.ask(path, &headers);
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{headers}{head}");
        assert!(body == expected, "{headers}{} bytes", body.len());
    }
    let (head, body) = served.ask("/simple/App/", "");
    assert!(head.starts_with("HTTP/1.1 301") && head.contains("Location: /simple/app/"), "{head} {body:?}");
    let (head, body) = served.ask("/simple/app/", "Accept: application/vnd.pypi.simple.v1+json\r\n");
    assert!(head.contains("application/vnd.pypi.simple.v1+json") && body.starts_with(b"{"), "{head}");
}

#[test]
fn serve_is_for_this_machine_unless_told_and_refuses_with_the_next_step() {
    let ground = Ground::new();
    ground.flat(&app());
    let served = Served::start(&ground, "m");
    assert!(served.url.starts_with("http://127.0.0.1:") && served.url.ends_with("/simple/"), "{}", served.url);
    let busy = served.url.trim_start_matches("http://").split('/').next().unwrap().to_owned();
    for (arguments, words) in [
        (&["serve", "none"][..], "Name the directory"),
        (&["serve", "m", "--listen", &busy], "--listen 127.0.0.1:0"),
        (&["index", "none"], "pip download"),
        (&["verify", "none"], "Name the mirror"),
    ] {
        let output = ground.mirror(arguments);
        assert_code(&output, 125);
        assert!(stderr(&output).contains(words), "{}", stderr(&output));
    }
}

#[test]
fn what_is_an_index_already_elsewhere_is_left_as_it_is() {
    let ground = Ground::new();
    ground.write("m/simple/app/index.html", "<a href='../../packages/app-1.0-py3-none-any.whl'>x</a>");
    ground.write("m/packages/app-1.0-py3-none-any.whl", app()[0].bytes());
    let output = ground.mirror(&["index", "m"]);
    assert_code(&output, 125);
    assert!(stderr(&output).contains("dropcloth mirror verify"), "{}", stderr(&output));
    assert!(ground.path("m/packages/app-1.0-py3-none-any.whl").is_file() && !ground.path("m/links.html").exists());
}
