//! Named transactions: several steps, one commit.
#![allow(missing_docs, clippy::disallowed_methods, reason = "a test starts programs and clears up after itself")]

mod support;

use std::io::{BufRead, BufReader};
use std::process::{Output, Stdio};

use support::{Field, assert_code, stderr, stdout, tree};

fn verb(field: &Field, arguments: &[&str]) -> Output {
    field.dropcloth(arguments).output().unwrap()
}

fn step(field: &Field, script: &str) -> Output {
    verb(field, &["run", "--in", "build", "--", "sh", "-c", script])
}

#[test]
fn steps_of_a_transaction_see_each_other_and_are_committed_together() {
    needs_root!();
    let field = Field::small();
    let before = field.snapshot();
    assert_code(&verb(&field, &["begin", "./rootfs", "--name", "build"]), 0);
    assert_code(&step(&field, "echo one > /etc/one; rm /etc/group; mv /var/lib /var/moved; chmod 700 /"), 0);
    assert_code(&step(&field, "cat /etc/one && ! test -e /etc/group && test -d /var/moved && echo two > /etc/two"), 0);
    tree::assert_same(&before, &field.snapshot(), "before the commit");
    let changes = verb(&field, &["changes", "build"]);
    assert!(stdout(&changes).contains("+ one") && stdout(&changes).contains("+ two"), "{}", stdout(&changes));
    assert_code(&verb(&field, &["commit", "build"]), 0);
    assert_eq!(std::fs::read_to_string(field.root.join("etc/two")).unwrap(), "two\n");
    assert!(!field.root.join("etc/group").exists() && field.root.join("var/moved").is_dir());
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&field.root).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn a_failed_step_is_taken_back_and_the_earlier_ones_stay() {
    needs_root!();
    let field = Field::small();
    std::fs::hard_link(field.root.join("etc/hosts"), field.root.join("etc/hosts.link")).unwrap();
    assert_code(&verb(&field, &["begin", "./rootfs", "--name", "build"]), 0);
    assert_code(&step(&field, "echo one >> /etc/hosts && mkdir /opt && echo a > /opt/a"), 0);
    let failed = step(&field, "echo two >> /etc/hosts; rm -rf /opt /usr; exit 9");
    assert_code(&failed, 9);
    assert!(stderr(&failed).contains("the earlier steps of the transaction build stay"), "{}", stderr(&failed));
    assert_code(&step(&field, "tail -n1 /etc/hosts.link | grep -qx one && cat /opt/a && test -d /usr/bin"), 0);
    assert_code(&verb(&field, &["commit", "build"]), 0);
    let text = std::fs::read_to_string(field.root.join("etc/hosts.link")).unwrap();
    assert!(text.ends_with("one\n"), "{text}");
    let inode = |name: &str| std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(field.root.join(name)).unwrap());
    assert_eq!(inode("etc/hosts"), inode("etc/hosts.link"), "the hard link is kept");
}

#[test]
fn a_killed_step_is_taken_back_by_the_next_use() {
    needs_root!();
    let mut field = Field::small();
    let before = field.snapshot();
    assert_code(&verb(&field, &["begin", "./rootfs", "--name", "build"]), 0);
    assert_code(&step(&field, "echo one > /etc/one"), 0);
    let script = "rm -rf /etc; echo ready; sleep 500";
    let mut child =
        field.dropcloth(["run", "--in", "build", "--", "sh", "-c", script]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    for _ in 0..200 {
        if !stdout(&verb(&field, &["list", "./rootfs"])).contains("running") {
            break;
        }
        std::thread::park_timeout(std::time::Duration::from_millis(20));
    }
    let next = step(&field, "cat /etc/one /etc/passwd");
    assert_code(&next, 0);
    tree::assert_same(&before, &field.snapshot(), "not committed");
    assert_code(&verb(&field, &["discard", "build"]), 0);
    tree::assert_same(&before, &field.snapshot(), "discarded");
    field.check_leaks();
}

#[test]
fn overrides_are_laid_again_for_each_step_and_never_committed() {
    needs_root!();
    let field = Field::small();
    let file = field.path().join("laid");
    std::fs::write(&file, "laid over").unwrap();
    let lay = format!("/etc/hosts={}", file.display());
    assert_code(&verb(&field, &["begin", "./rootfs", "--name", "build"]), 0);
    let before = field.snapshot();
    for script in ["cat /etc/hosts; echo mine > /etc/hosts", "cat /etc/hosts"] {
        let output = verb(&field, &["run", "--in", "build", "--lay", &lay, "--", "sh", "-c", script]);
        assert_code(&output, 0);
    }
    assert_code(&verb(&field, &["commit", "build"]), 0);
    tree::assert_same(&before, &field.snapshot(), "overrides");
    std::fs::remove_file(file).unwrap();
}

#[test]
fn names_are_checked_and_used_once() {
    needs_root!();
    let field = Field::small();
    for name in ["", "a/b", "../x", "a b"] {
        let output = verb(&field, &["begin", "./rootfs", "--name", name]);
        assert_code(&output, 125);
        assert!(stderr(&output).contains("cannot be the name"), "{}", stderr(&output));
    }
    assert_code(&verb(&field, &["begin", "./rootfs", "--name", "build"]), 0);
    let again = verb(&field, &["begin", "./rootfs", "--name", "build"]);
    assert_code(&again, 125);
    assert!(stderr(&again).contains("already"), "{}", stderr(&again));
    // A plain run leaves the open transaction alone.
    assert_code(&field.run(&[], "true"), 0);
    assert!(stdout(&verb(&field, &["list", "./rootfs"])).contains("build"));
    assert_code(&verb(&field, &["discard", "build"]), 0);
    let gone = step(&field, "true");
    assert_code(&gone, 125);
    assert!(stderr(&gone).contains("there is no transaction"), "{}", stderr(&gone));
}
