//! `dropcloth mirror diff`: two mirrors beside each other.
#![allow(missing_docs, clippy::disallowed_methods, reason = "a test starts programs and clears up after itself")]

#[path = "support/mirrors.rs"]
mod mirrors;
#[path = "support/packages.rs"]
mod packages;
mod support;

use mirrors::{Ground, app};
use packages::Package;
use support::{assert_code, stderr, stdout};

#[test]
fn mirrors_with_the_same_files_are_the_same_however_they_are_arranged() {
    let ground = Ground::new();
    ground.indexed(&app());
    std::fs::create_dir_all(ground.path("flat")).unwrap();
    std::fs::create_dir_all(ground.path("nested/simple/app")).unwrap();
    for package in app() {
        std::fs::write(ground.path("flat").join(package.file_name()), package.bytes()).unwrap();
    }
    let same = ground.mirror(&["diff", "m", "flat"]);
    assert_code(&same, 0);
    assert_eq!(stdout(&same), "the same files\n");
    assert!(ground.path("flat/app-1.0-py3-none-any.whl").is_file(), "nothing is moved");
    ground.write("nested/simple/app/index.html", "");
    let other = ground.mirror(&["diff", "nested", "flat"]);
    assert_code(&other, 1);
    assert!(stdout(&other).contains("+ app/app-1.0-py3-none-any.whl"), "{}", stdout(&other));
}

#[test]
fn contents_versions_and_yanked_markers_are_compared() {
    let ground = Ground::new();
    ground.indexed(&app());
    support::copy(&ground.path("m"), &ground.path("before"));
    let wheel = ">lib-1.0-py3-none-any.whl</a>";
    ground.edit("m/lib/index.html", wheel, &format!(" data-yanked=\"broken\"{wheel}"));
    std::fs::remove_file(ground.path("m/lib/lib-2.5-py3-none-any.whl")).unwrap();
    ground.write("m/app/app-1.0-py3-none-any.whl", Package::wheel("app", "1.0").bytes());
    ground.indexed(&[Package::wheel("lib", "3.0")]);
    let output = ground.mirror(&["diff", "before", "m", "--json"]);
    assert_code(&output, 1);
    let json: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(json["only_a"], serde_json::json!(["lib/lib-2.5-py3-none-any.whl"]));
    assert_eq!(json["only_b"], serde_json::json!(["lib/lib-3.0-py3-none-any.whl"]));
    assert_eq!(json["changed"][0]["file"], "app/app-1.0-py3-none-any.whl");
    assert_eq!(json["newest"], serde_json::json!([{"project": "lib", "a": "2.5", "b": "3.0"}]));
    let yanked = serde_json::json!([{"file": "lib/lib-1.0-py3-none-any.whl", "a": null, "b": "broken"}]);
    assert_eq!(json["yanked"], yanked);
    let text = stdout(&ground.mirror(&["diff", "before", "m"]));
    assert!(text.contains("newest lib: 2.5 became 3.0\n") && text.contains("yanked (broken)"), "{text}");
}

#[test]
fn what_is_no_directory_is_an_error_and_no_difference() {
    let ground = Ground::new();
    ground.indexed(&app());
    let output = ground.mirror(&["diff", "m", "nothing"]);
    assert_code(&output, 125);
    assert!(stderr(&output).contains("nothing is not a directory"), "{}", stderr(&output));
}
