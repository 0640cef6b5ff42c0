//! What stands between a step and its commit: conflicts, traces of the run, secrets, and the clamp of times.
#![allow(missing_docs, clippy::disallowed_methods, reason = "a test starts programs and clears up after itself")]

mod support;

use std::os::unix::fs::MetadataExt;
use std::process::{Command, Output, Stdio};

use support::tree::Snapshot;
use support::{Field, assert_code, shell, stderr, stdout, tree};

fn verb(field: &Field, arguments: &[&str]) -> Output {
    field.dropcloth(arguments).output().unwrap()
}

fn text(field: &Field, path: &str) -> String {
    std::fs::read_to_string(field.root.join(path)).unwrap()
}

/// The id of the only transaction.
fn id(field: &Field) -> String {
    let list = stdout(&verb(field, &["list", "./rootfs"]));
    assert!(list.contains(" kept "), "{list}");
    list.split_whitespace().next().unwrap().to_owned()
}

/// Runs a step that waits while `meanwhile` changes the image from outside.
fn during(field: &Field, options: &[&str], script: &str, meanwhile: &str) -> Output {
    let script = format!("echo ready; read go; {script}");
    let rest = ["./rootfs", "--", "sh", "-c", &script];
    let arguments = ["run"].iter().chain(options).chain(&rest);
    let mut command: Command = field.dropcloth(arguments);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut ready = [0; 6];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
    shell(meanwhile, &field.root);
    std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"go\n").unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn a_change_from_outside_where_the_step_changed_something_too_is_no_silent_loss() {
    needs_sandbox!();
    let table = [
        ("echo step >> etc/hosts", "echo host >> etc/hosts", "/etc/hosts"),
        ("rm etc/group", "echo host >> etc/group", "/etc/group"),
        ("rm -r etc", "echo host >> etc/group", "/etc/group"),
        ("rm -r etc; mkdir etc", "echo host > etc/new", "/etc/new"),
        ("echo step > etc/new", "echo host > etc/new", "/etc/new"),
        ("chmod 700 etc", "chmod 711 etc", "/etc"),
        ("mv usr /etc/usr", "mkdir etc/usr", "/etc/usr"),
    ];
    for (step, meanwhile, path) in table {
        let field = Field::small();
        let output = during(&field, &[], &format!("cd /; {step}"), meanwhile);
        assert_code(&output, 125);
        let said = stderr(&output);
        assert!(
            said.contains("somebody else changed the image") && said.contains(&format!("{path}\n")),
            "{step}: {said}"
        );
        let host = field.snapshot();
        let id = id(&field);
        assert_code(&verb(&field, &["commit", &id]), 125);
        tree::assert_same(&host, &field.snapshot(), "a refused commit");
        assert_code(&verb(&field, &["discard", &id]), 0);
    }
}

#[test]
fn force_takes_the_steps_version() {
    needs_sandbox!();
    let field = Field::small();
    let script = "echo step > /etc/hosts";
    assert_code(&during(&field, &["--force"], script, "echo host > etc/hosts"), 0);
    assert_eq!(text(&field, "etc/hosts"), "step\n");
    assert_code(&during(&field, &[], "echo again > /etc/hosts", "echo host > etc/hosts"), 125);
    assert_code(&verb(&field, &["commit", &id(&field), "--force"]), 0);
    assert_eq!(text(&field, "etc/hosts"), "again\n");
}

/// A lock file that names the mirror, a log with a password, a copied override.
const TRACES: &str = "mkdir /opt; printf 'a\\nsource = \"file:///tmp/pypi/six\"\\n' > /opt/uv.lock
    echo 'GET http://me:hunter22@127.0.0.1:9/simple/x' > /opt/log; cp /etc/pip.conf /opt/kept.conf
    ln -s /tmp/pypi/six /opt/link; printf '\\0/tmp/pypi' > /opt/binary; echo nothing > /opt/clean";

fn with_mirror(field: &Field) -> [String; 6] {
    std::fs::create_dir(field.path().join("pypi")).unwrap();
    let index = "http://me:hunter22@127.0.0.1:9/simple";
    ["--mirror", "pypi", "--index", "file:///tmp/pypi", "--index", index].map(str::to_owned)
}

#[test]
fn traces_of_the_run_are_told_with_file_and_line() {
    needs_sandbox!();
    let mut field = Field::small();
    field.forget_leaks();
    let options = with_mirror(&field);
    let mut options: Vec<&str> = options.iter().map(String::as_str).collect();
    let output = field.run(&options, TRACES);
    assert_code(&output, 0);
    let said = stderr(&output);
    for words in [
        "/opt/uv.lock:2: the mirror's place",
        "/opt/log:1: the credentials",
        "/opt/kept.conf:1: the contents of",
        "/opt/link (byte 0): the mirror's place in the step, in the target of the link",
        "/opt/binary (byte 1)",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(!said.contains("clean"), "{said}");
    options.extend(["--leaks", "off"]);
    assert!(!stderr(&field.run(&options, "rm -r /opt; mkdir /opt; echo /tmp/pypi > /opt/a")).contains("trace"));
}

#[test]
fn traces_can_refuse_the_commit_and_be_let_through_by_hand() {
    needs_sandbox!();
    let mut field = Field::small();
    field.forget_leaks();
    let before = field.snapshot();
    let options = with_mirror(&field);
    let options: Vec<&str> = options.iter().map(String::as_str).chain(["--leaks", "fail"]).collect();
    let output = field.run(&options, TRACES);
    assert_code(&output, 125);
    assert!(stderr(&output).contains("/opt/uv.lock:2"), "{}", stderr(&output));
    tree::assert_same(&before, &field.snapshot(), "a refused commit");
    let id = id(&field);
    assert_code(&verb(&field, &["commit", &id]), 125);
    assert_code(&verb(&field, &["commit", &id, "--leaks", "warn"]), 0);
    assert!(field.root.join("opt/uv.lock").exists());
}

#[test]
fn a_secret_is_seen_by_the_step_only_and_found_where_it_got_out() {
    needs_sandbox!();
    let mut field = Field::small();
    field.forget_leaks();
    std::fs::write(field.path().join("token"), "correct horse\n").unwrap();
    let before = field.snapshot();
    let options = ["--secret", "token=token", "--leaks", "fail"];
    let look = "stat -c '%a %u' /run/secrets/token; grep -q 'correct horse' /run/secrets/token && ! echo x > /run/secrets/token";
    let output = field.run(&options, look);
    assert_code(&output, 0);
    assert_eq!(stdout(&output), "400 0\n");
    tree::assert_same(&before, &field.snapshot(), "a step that only reads its secret");
    let output = field.run(&options, "mkdir -p /var/cache; cp /run/secrets/token /var/cache/copy");
    assert_code(&output, 125);
    assert!(stderr(&output).contains("/var/cache/copy:1: the secret token"), "{}", stderr(&output));
    kept_with_its_secret(&field, &before);
    let failing = "mkdir -p /var/cache; cp /run/secrets/token /var/cache/copy; exit 3";
    assert_code(&field.run(&[&options[..], &["--on-failure", "keep"]].concat(), failing), 3);
    kept_with_its_secret(&field, &before);
    let grep =
        Command::new("grep").args(["-r", "correct horse", "rootfs", ".dropcloth"]).current_dir(field.path()).output();
    assert_eq!(stdout(&grep.unwrap()), "");
}

/// The command that comes later does not have the secret, and may not commit it all the same.
#[track_caller]
fn kept_with_its_secret(field: &Field, before: &Snapshot) {
    let id = id(field);
    let output = verb(field, &["commit", &id]);
    assert_code(&output, 125);
    assert!(stderr(&output).contains("/var/cache/copy:1: the secret token"), "{}", stderr(&output));
    assert_code(&verb(field, &["discard", &id]), 0);
    tree::assert_same(before, &field.snapshot(), "a discarded secret");
}

#[test]
fn a_secret_that_an_earlier_step_let_out_is_found_at_the_commit() {
    needs_sandbox!();
    let mut field = Field::small();
    field.forget_leaks();
    std::fs::write(field.path().join("token"), "correct horse").unwrap();
    let step = |options: &[&str], script: &str| {
        let rest = ["--", "sh", "-c", script];
        let arguments = ["run", "--in", "x"].iter().chain(options).chain(&rest);
        assert_code(&field.dropcloth(arguments).output().unwrap(), 0);
    };
    assert_code(&verb(&field, &["begin", "./rootfs", "--name", "x", "--leaks", "fail"]), 0);
    step(
        &["--secret", "token=token"],
        "cp /run/secrets/token /a; cp /run/secrets/token /b; test -r /run/secrets/token",
    );
    step(&[], "rm /b; test ! -e /run/secrets");
    let output = verb(&field, &["commit", "x"]);
    assert_code(&output, 125);
    assert!(
        stderr(&output).contains("/a:1: the secret token") && !stderr(&output).contains("/b"),
        "{}",
        stderr(&output)
    );
    step(&[], "echo harmless > /a");
    assert_code(&verb(&field, &["commit", "x"]), 0);
}

#[test]
fn a_secret_from_a_pipe_is_read_once() {
    needs_sandbox!();
    let field = Field::small();
    let binary = support::binary();
    let script = format!(
        "'{}' run --secret t=<(printf tok) --secret u=<(printf tuk) ./rootfs -- sh -c 'cat /run/secrets/*'",
        binary.display()
    );
    let output = Command::new("bash")
        .args(["-c", &script])
        .env("HOME", field.path())
        .current_dir(field.path())
        .output()
        .unwrap();
    assert_code(&output, 0);
    assert_eq!(stdout(&output), "toktuk");
}

/// Everything a commit does to times: moved files, trees, merged and renamed directories, links, hard links, kept old times.
const BUSY: &str = "cd /; echo a > etc/new; echo b >> etc/hosts; mkdir -p opt/x/y; echo c > opt/x/y/z; ln -s z opt/x/l
    mv var/tmp opt/tmp; rm etc/group; chmod 700 usr; echo d >> etc/h2; touch -d '2001-02-03 00:00:00' opt/old; mkfifo opt/fifo
    mkdir -p root/sub; echo $SOURCE_DATE_EPOCH > root/epoch";

/// Those that do something on the host, or to the image beforehand, that only root of the machine may, and those of what an
/// overlay of root alone can do.
mod as_root {
    use super::*;

    #[test]
    fn a_change_from_outside_that_the_step_did_not_touch_is_no_conflict() {
        needs_root!();
        let field = Field::small();
        let output = during(
            &field,
            &[],
            "echo step > /etc/new; mv /var /var2; cat /etc/hosts",
            "echo x >> etc/hosts; echo y > var/tmp/y",
        );
        assert_code(&output, 0);
        assert!(text(&field, "etc/hosts").ends_with("x\n"));
        assert_eq!(text(&field, "var2/tmp/y"), "y\n");
    }

    #[test]
    fn exact_refuses_what_the_overlay_cannot_do() {
        needs_root!();
        let field = Field::small();
        shell("mknod hidden c 0 0", &field.root);
        let output = field.run(&["--exact"], "echo x > /hidden");
        assert_code(&output, 125);
        assert!(
            stderr(&output).contains("device 0:0") && stderr(&output).contains("--backend copy"),
            "{}",
            stderr(&output)
        );
        assert_code(&verb(&field, &["discard", &id(&field)]), 0);
        assert_code(&field.run(&["--exact"], "echo x > /etc/new"), 0);
    }

    #[test]
    fn two_builds_with_one_source_date_epoch_are_the_same_tree() {
        needs_root!();
        const EPOCH: i64 = 1_600_000_000;
        let build = |by_variable: bool| {
            let field = Field::small();
            std::fs::hard_link(field.root.join("etc/passwd"), field.root.join("etc/h2")).unwrap();
            let epoch = EPOCH.to_string();
            let mut command = field.dropcloth(["run", "./rootfs"]);
            if by_variable {
                command.env("SOURCE_DATE_EPOCH", &epoch);
            } else {
                command.args(["--source-date-epoch", &epoch]);
            }
            assert_code(&command.args(["--", "sh", "-c", BUSY]).output().unwrap(), 0);
            std::thread::park_timeout(std::time::Duration::from_millis(1100));
            field
        };
        let (one, two) = (build(false), build(true));
        let differences = tree::diff(&one.snapshot(), &two.snapshot());
        assert_eq!(differences, Vec::<String>::new());
        let mtime = |path: &str| std::fs::symlink_metadata(one.root.join(path)).unwrap().mtime();
        for path in ["etc/new", "etc", "opt", "opt/x/y/z", "opt/x/l", "opt/tmp", "opt/fifo", "etc/passwd", "var", "usr"]
        {
            assert!(mtime(path) <= EPOCH, "{path}: {}", mtime(path));
        }
        assert_eq!(mtime("opt/old"), 981_158_400);
        assert_eq!(text(&one, "root/epoch"), format!("{EPOCH}\n"));
    }
}
