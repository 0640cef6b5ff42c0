//! Bad input: a clear error with the next step in it, before anything is changed. Runs as root and as a plain user.
#![allow(missing_docs, clippy::disallowed_methods, reason = "a test starts programs and clears up after itself")]

mod support;

use std::path::Path;
use std::process::{Command, Output};

use support::{Field, assert_code, stderr, stdout, tree};

fn dropcloth(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(support::binary())
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin")
        .env("HOME", directory)
        .current_dir(directory)
        .output()
        .unwrap()
}

/// Every case ends with 125, says `words` and gives a hint.
fn refused(field: &Field, arguments: &[&str], words: &[&str]) {
    let before = field.snapshot();
    let output = dropcloth(field.path(), arguments);
    assert_code(&output, 125);
    let text = stderr(&output);
    for word in words {
        assert!(text.contains(word), "{arguments:?} does not say {word:?}:\n{text}");
    }
    assert!(text.starts_with("error: ") && text.contains("hint:"), "{arguments:?}:\n{text}");
    tree::assert_same(&before, &field.snapshot(), &arguments.join(" "));
    assert!(!field.path().join(".dropcloth").exists(), "{arguments:?} left a transaction");
}

#[test]
fn bad_roots_are_refused() {
    let field = Field::small();
    refused(&field, &["run", "./missing", "--", "true"], &["cannot use ./missing", "ENOENT", "rootfs"]);
    refused(&field, &["run", "./rootfs/etc/passwd", "--", "true"], &["ENOTDIR", "An image is a directory"]);
}

#[test]
fn bad_mirrors_are_refused() {
    let field = Field::small();
    refused(
        &field,
        &["run", "--mirror", "./nowhere", "./rootfs", "--", "true"],
        &["mirror directory", "nowhere", "--index URL"],
    );
    refused(
        &field,
        &["run", "--index", "mirror.example/simple", "./rootfs", "--", "true"],
        &["http://mirror.example/simple"],
    );
    refused(
        &field,
        &["run", "--index", "ftp://mirror.example/", "./rootfs", "--", "true"],
        &["ftp://mirror.example/", "https://"],
    );
}

#[test]
fn override_targets_outside_of_the_image_are_refused() {
    let field = Field::small();
    refused(&field, &["run", "--lay", "../../etc/passwd=/etc/hosts", "./rootfs", "--", "true"], &["has a .. in it"]);
    refused(&field, &["run", "--bind", "/etc:/a/../../b", "./rootfs", "--", "true"], &["has a .. in it"]);
    refused(
        &field,
        &["run", "--lay", "etc/passwd=/etc/hosts", "./rootfs", "--", "true"],
        &["not absolute", "/etc/passwd"],
    );
    refused(
        &field,
        &["run", "--lay", "/etc/hosts=./missing", "./rootfs", "--", "true"],
        &["missing for --lay does not exist"],
    );
    refused(&field, &["run", "--bind", "./missing:/mnt", "./rootfs", "--", "true"], &["bind source", "does not exist"]);
}

#[test]
fn all_contradictions_are_told_at_once() {
    let field = Field::small();
    let arguments = ["run", "--index", "nothing", "--lay", "oops", "--workdir", "../x", "./rootfs", "--", "true"];
    let text = stderr(&dropcloth(field.path(), &arguments));
    assert_eq!(text.matches("because:").count(), 3, "{text}");
}

#[test]
fn a_malformed_settings_file_names_its_line() {
    let field = Field::small();
    let file = field.path().join("dropcloth.yaml");
    for (text, words) in [
        ("mode: commit\nlay: [\n", vec!["dropcloth.yaml", "line"]),
        ("mod: commit\n", vec!["unknown key mod", "Did you mean mode?"]),
        ("profiles: {ci: {netwrok: none}}\n", vec!["no profile \"nope\""]),
        ("retries: lots\n", vec!["retries:"]),
    ] {
        std::fs::write(&file, text).unwrap();
        let profile: &[&str] = if text.starts_with("profiles") { &["--profile", "nope"] } else { &[] };
        let arguments: Vec<&str> = ["run"].iter().chain(profile).chain(&["./rootfs", "--", "true"]).copied().collect();
        refused(&field, &arguments, &words);
    }
    std::fs::remove_file(file).unwrap();
}

#[test]
fn an_image_whose_proc_is_a_link_is_refused() {
    let field = Field::small();
    std::fs::remove_dir(field.root.join("proc")).unwrap();
    std::os::unix::fs::symlink("/etc", field.root.join("proc")).unwrap();
    refused(&field, &["run", "./rootfs", "--", "true"], &["/proc of the image is not a directory"]);
}

#[test]
fn an_image_inside_a_transaction_is_refused() {
    let field = Field::small();
    let inside = field.path().join(".dropcloth/x/upper");
    std::fs::create_dir_all(&inside).unwrap();
    let output = dropcloth(field.path(), &["run", "./.dropcloth/x/upper", "--", "true"]);
    assert_code(&output, 125);
    assert!(stderr(&output).contains("inside a transaction directory"), "{}", stderr(&output));
    std::fs::remove_dir_all(field.path().join(".dropcloth")).unwrap();
}

#[test]
fn the_machine_itself_is_never_committed_to() {
    let output = dropcloth(Path::new("/"), &["run", "/", "--", "true"]);
    assert_code(&output, 125);
    assert!(stderr(&output).contains("--mode discard"), "{}", stderr(&output));
}

#[test]
fn usage_errors_end_with_125_and_help_with_0() {
    let here = Path::new("/");
    assert_code(&dropcloth(here, &["run"]), 125);
    assert_code(&dropcloth(here, &["run", "--no-such-flag", "/", "--", "true"]), 125);
    let help = dropcloth(here, &["--help"]);
    assert_code(&help, 0);
    assert!(stdout(&help).contains("dropcloth run ./rootfs -- pip install requests"));
    assert_code(&dropcloth(here, &["completions", "bash"]), 0);
    assert_code(&dropcloth(here, &["man"]), 0);
}

#[test]
fn unknown_transactions_are_told_with_the_way_to_find_them() {
    let field = Field::small();
    for verb in ["changes", "commit", "discard"] {
        let output = dropcloth(field.path(), &[verb, "deadbeef"]);
        assert_code(&output, 125);
        assert!(stderr(&output).contains("dropcloth list"), "{}", stderr(&output));
    }
}
