//! Named transactions: several steps, one commit.
#![allow(missing_docs, clippy::disallowed_methods, reason = "a test starts programs and clears up after itself")]

mod support;

use std::io::{BufRead, BufReader};
use std::process::{Output, Stdio};

use support::{Field, assert_code, shell, stderr, stdout, tree};

fn verb(field: &Field, arguments: &[&str]) -> Output {
    field.dropcloth(arguments).output().unwrap()
}

fn step(field: &Field, script: &str) -> Output {
    verb(field, &["run", "--in", "build", "--", "sh", "-c", script])
}

#[test]
fn steps_of_a_transaction_see_each_other_and_are_committed_together() {
    needs_sandbox!();
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
fn a_killed_step_is_taken_back_by_the_next_use() {
    needs_sandbox!();
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
    needs_sandbox!();
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
    needs_sandbox!();
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

/// What dpkg and pip write when they install something.
const INSTALL: &str = r"set -e; cd /
    mkdir -p var/lib/dpkg/info usr/share/doc/tool usr/lib/python3/dist-packages/six-1.0.dist-info
    mkdir -p usr/lib/python3/dist-packages/__pycache__ opt
    printf '/.\n/bin/tool\n/usr/share/doc/tool/copyright\n/usr/lib/python3/dist-packages/toolmod.py\n' > var/lib/dpkg/info/tool:amd64.list
    echo x > usr/bin/tool; echo x > usr/share/doc/tool/copyright; echo x > usr/lib/python3/dist-packages/toolmod.py
    echo x > usr/lib/python3/dist-packages/__pycache__/toolmod.cpython-313.pyc
    printf 'six.py,sha256=x,2\n../../../bin/six,,\nsix-1.0.dist-info/RECORD,,\n' > usr/lib/python3/dist-packages/six-1.0.dist-info/RECORD
    echo x > usr/lib/python3/dist-packages/six.py; echo x > usr/bin/six
    printf 'one\ntwo\n' > opt/mine; echo 127.0.0.9 odd >> etc/hosts; rm etc/group; mv var/tmp var/moved; echo x >> var/moved/note";

/// Those that do something on the host, or to the image beforehand, that only root of the machine may, and those of what an
/// overlay of root alone can do.
mod as_root {
    use super::*;

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
        let inode =
            |name: &str| std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(field.root.join(name)).unwrap());
        assert_eq!(inode("etc/hosts"), inode("etc/hosts.link"), "the hard link is kept");
    }

    #[test]
    fn attributes_and_flags_of_the_root_are_taken_back() {
        needs_root!();
        let field = Field::small();
        ["setfattr", "chattr"].iter().for_each(|tool| support::install(tool, &field.root));
        shell(
            "setfattr -n trusted.kept -v 1 .; setfattr -n trusted.overlay.overlay.own -v image .; chattr +d .",
            &field.root,
        );
        let before = field.snapshot();
        assert_code(&verb(&field, &["begin", "./rootfs", "--name", "build"]), 0);
        let script = "setfattr -n trusted.overlay.opaque -v y /; chattr +A /; chmod 700 /";
        let step =
            |script: &str| verb(&field, &["run", "--in", "build", "--cap-add", "SYS_ADMIN", "--", "sh", "-c", script]);
        assert_code(&step(&format!("{script}; exit 9")), 9);
        assert_code(&step("test -d /etc"), 0);
        assert_code(&step("setfattr -n trusted.overlay.opaque -v y /"), 0);
        assert_code(&step("setfattr -x trusted.overlay.opaque /; exit 9"), 9);
        assert_code(&step("test -d /etc"), 0);
        assert_code(&verb(&field, &["commit", "build"]), 0);
        let lines = tree::diff(&before, &field.snapshot());
        assert_eq!(lines, ["! \".\": xattr trusted.overlay.opaque none -> \"y\""]);
    }

    #[test]
    fn changes_are_grouped_by_the_package_that_owns_them() {
        needs_root!();
        let field = Field::small();
        shell(
            "[ -L bin ] || { cp -a bin/. usr/bin/ 2>/dev/null || true; rm -r bin; ln -s usr/bin bin; }
             echo first > var/tmp/note; printf '127.0.0.1 localhost\\n' > etc/hosts",
            &field.root,
        );
        assert_code(&verb(&field, &["begin", "./rootfs", "--name", "build"]), 0);
        assert_code(&step(&field, INSTALL), 0);
        let output = verb(&field, &["changes", "build", "--diff"]);
        assert_code(&output, 0);
        let said = stdout(&output);
        let groups = ["dpkg tool: 5 files", "pip six 1.0: 3 files", "owned by no package: 3 files"];
        for words in groups.iter().chain(&["+ mine", "- group", "> moved/  from /var/tmp"]) {
            assert!(said.contains(words), "{words}: {said}");
        }
        for diff in ["+++ b/opt/mine\n@@ -0,0 +1,2 @@\n+one\n", " 127.0.0.1 localhost\n+127.0.0.9 odd", " first\n+x"] {
            assert!(said.contains(diff), "{diff}: {said}");
        }
        assert!(!said.contains("toolmod.py"), "{said}");
        assert!(stdout(&verb(&field, &["-v", "changes", "build"])).contains("toolmod.py"));
        let json: serde_json::Value =
            serde_json::from_slice(&verb(&field, &["changes", "build", "--json"]).stdout).unwrap();
        let (list, owners) = (json["changes"]["list"].as_array().unwrap(), json["owners"].as_array().unwrap());
        let owner = |path: &str| &owners[list.iter().position(|c| c["path"] == path).unwrap()];
        assert_eq!(owner("/usr/lib/python3/dist-packages/__pycache__/toolmod.cpython-313.pyc")["package"], "tool");
        assert_eq!(owner("/usr/bin/six")["package"], "six 1.0");
        assert_eq!(owner("/opt/mine")["by"], "unowned");
        assert_code(&verb(&field, &["discard", "build"]), 0);
    }
}

/// Everything by absolute paths, in another directory than the one in which the image is.
#[test]
fn a_transaction_is_known_by_its_name_and_its_id_in_every_directory() {
    needs_sandbox!();
    let field = Field::small();
    let root = field.root.to_str().unwrap();
    let scratch = field.path().join("scratch");
    let at = |words: &[&str]| field.dropcloth(words).current_dir("/").output().unwrap();
    for options in [&[][..], &["--scratch", scratch.to_str().unwrap()]] {
        let begin = [&["begin"], options, &["--name", "far", root]].concat();
        assert_code(&at(&begin), 0);
        assert_code(&at(&["run", "--in", "far", "--", "sh", "-c", "echo one > /one"]), 0);
        assert!(stdout(&at(&["list"])).contains("far"), "{}", stdout(&at(&["list"])));
        assert!(stdout(&at(&["list", root])).contains("far"));
        assert!(stdout(&at(&["changes", "far"])).contains("one"));
        // Another one of that name on another image: neither is meant by it, and each is found by its directory.
        let other = Field::small();
        let mut begin = other.dropcloth(["begin", "--name", "far", "./rootfs"]);
        assert_code(&begin.env("DROPCLOTH_STATE", field.state.path()).output().unwrap(), 0);
        let output = at(&["commit", "far"]);
        assert_code(&output, 125);
        assert!(stderr(&output).contains(other.path().to_str().unwrap()), "{}", stderr(&output));
        assert_code(&at(&["discard", other.root.to_str().unwrap()]), 0);
        assert_code(&at(&["commit", "far"]), 0);
        assert_eq!(std::fs::read_to_string(field.root.join("one")).unwrap(), "one\n");
        std::fs::remove_file(field.root.join("one")).unwrap();
        // What a run says about a kept transaction is true here too.
        let keep =
            [&["run", "--on-failure", "keep"], options, &[root, "--", "sh", "-c", "echo two > /two; exit 3"]].concat();
        let output = at(&keep);
        assert_code(&output, 3);
        let id = stderr(&output).split("kept its transaction ").nth(1).unwrap()[..8].to_owned();
        assert!(stdout(&at(&["changes", &id])).contains("two"));
        assert_code(&at(&["discard", &id]), 0);
        assert!(!field.state.path().exists() && !scratch.exists(), "nothing is left of it");
    }
    assert_eq!(stdout(&at(&["list"])), "");
}

#[test]
fn a_recovery_of_all_images_goes_on_after_one_that_is_gone() {
    needs_sandbox!();
    let mut gone = Field::small();
    gone.forget_leaks();
    let field = Field::small();
    let known = |words: &[&str], field: &Field| {
        let mut command = field.dropcloth(words);
        command.env("DROPCLOTH_STATE", gone.state.path()).current_dir("/").output().unwrap()
    };
    for each in [&gone, &field] {
        assert_code(&known(&["begin", "--name", "known", each.root.to_str().unwrap()], each), 0);
    }
    std::fs::rename(&gone.root, gone.path().join("elsewhere")).unwrap();
    let output = known(&["recover"], &field);
    assert_code(&output, 0);
    let said = stderr(&output);
    assert!(said.contains(&format!("left what is known of {}", gone.root.display())), "{said}");
    assert!(
        said.contains("left the transaction that is kept") && said.contains(field.path().to_str().unwrap()),
        "{said}"
    );
    // Whoever names it is told.
    assert_code(&known(&["recover", gone.root.to_str().unwrap()], &field), 125);
    assert_code(&known(&["discard", field.root.to_str().unwrap()], &field), 0);
}

/// Somebody who looks holds the transaction's shared lock, and is no step that runs.
#[test]
fn who_only_looks_at_a_transaction_keeps_nobody_from_it() {
    needs_sandbox!();
    let mut field = Field::small();
    field.forget_leaks();
    assert_code(&verb(&field, &["begin", "./rootfs", "--name", "seen"]), 0);
    let storage = field.path().join(".dropcloth").read_dir().unwrap().next().unwrap().unwrap().path();
    let looking = std::fs::File::open(&storage).unwrap();
    looking.lock_shared().unwrap();
    let list = stdout(&verb(&field, &["list", "./rootfs"]));
    assert!(list.contains("kept") && !list.contains("running"), "{list}");
    // For as long as it is held, nobody can have it for himself.
    let output = verb(&field, &["discard", "seen"]);
    assert_code(&output, 125);
    assert!(stderr(&output).contains("in use"), "{}", stderr(&output));
    drop(looking);
    assert_code(&verb(&field, &["discard", "seen"]), 0);
}
