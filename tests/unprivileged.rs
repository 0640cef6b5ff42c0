//! What an ordinary user gets: subordinate ids, images of other owners, and a clear word where something cannot work.
#![allow(missing_docs, clippy::disallowed_methods, reason = "a test starts programs and clears up after itself")]

mod support;

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Output};

use support::{Field, assert_code, shell, stderr, stdout, tree};

fn verb(field: &Field, arguments: &[&str]) -> Output {
    field.dropcloth(arguments).output().unwrap()
}

/// A command inside namespaces that another program made; `{}` is dropcloth.
fn within(field: &Field, program: &[&str], script: &str) -> Output {
    let script = script.replace("{}", &support::binary().display().to_string());
    Command::new(program[0])
        .args(&program[1..])
        .args(["sh", "-c", &script])
        .current_dir(field.path())
        .env("HOME", field.path())
        .output()
        .unwrap()
}

/// Those that a user without any right runs. scripts/test runs them as one.
mod as_user {
    use super::*;

    /// First subordinate id of this user.
    fn first(file: &str) -> u32 {
        let user = stdout(&Command::new("id").arg("-un").output().unwrap());
        let text = std::fs::read_to_string(file).unwrap();
        let line = text.lines().find(|l| l.split(':').next() == Some(user.trim())).unwrap();
        line.split(':').nth(1).unwrap().parse().unwrap()
    }

    #[test]
    fn owners_are_subordinate_ids_and_rm_removes_them() {
        let mut field = Field::small();
        let script = "id -u; mkdir -p /srv/deep; echo x > /srv/deep/file; chown 5:6 /srv/deep/file; chown -R 7 /srv/deep; chmod 700 /srv/deep";
        let output = field.run(&[], script);
        assert_code(&output, 0);
        assert_eq!(stdout(&output), "0\n");
        let owner = std::fs::metadata(field.root.join("srv/deep")).unwrap();
        assert_eq!(owner.uid(), first("/etc/subuid") + 6, "id 1 is the first subordinate one");
        assert_code(&field.run(&[], "stat -c %u:%g /srv/deep/file | grep -qx 7:6"), 0);
        assert!(std::fs::remove_dir_all(&field.root).is_err(), "the files are somebody else's");
        assert_code(&verb(&field, &["rm", "rootfs"]), 0);
        assert!(!field.root.exists());
        field.forget_leaks();
    }

    #[test]
    fn a_tarball_is_unpacked_with_its_owners() {
        let mut field = Field::small();
        field.forget_leaks();
        shell("cd rootfs; tar --owner=3 --group=4 -czf ../three.tar.gz .", field.path());
        assert_code(&verb(&field, &["unpack", "three.tar.gz", "three"]), 0);
        assert_eq!(std::fs::metadata(field.path().join("three/etc")).unwrap().uid(), first("/etc/subuid") + 2);
        let again = verb(&field, &["unpack", "three.tar.gz", "three"]);
        assert_code(&again, 125);
        assert!(stderr(&again).contains("dropcloth rm three"), "{}", stderr(&again));
        std::fs::write(field.path().join("broken.tar"), "no tarball").unwrap();
        assert_code(&verb(&field, &["unpack", "broken.tar", "four"]), 125);
        assert!(!field.path().join("four").exists() && !field.path().join("four.unpacking").exists());
        assert_code(&verb(&field, &["rm", "three"]), 0);
    }

    /// As `mmdebstrap --mode=unshare` makes them.
    #[test]
    fn an_image_of_the_first_subordinate_id_has_it_as_root() {
        let mut field = Field::small();
        field.forget_leaks();
        shell("cd rootfs; tar --owner=1 --group=1 -cf ../image.tar .", field.path());
        assert_code(&verb(&field, &["unpack", "image.tar", "image"]), 0);
        for backend in ["overlay", "copy"] {
            let script = "stat -c %u:%g / /etc/hosts /etc/resolv.conf /root; echo x > /etc/new; chown 1:1 /etc/new; mkdir -p /srv/d";
            let run = ["run", "--backend", backend, "image", "--", "sh", "-c", script];
            let output = verb(&field, &run);
            assert_code(&output, 0);
            assert_eq!(stdout(&output), "0:0\n".repeat(4), "{backend}");
            let new = std::fs::metadata(field.path().join("image/etc/new")).unwrap();
            assert_eq!((new.uid(), new.gid()), (first("/etc/subuid") + 1, first("/etc/subgid") + 1));
            assert_eq!(std::fs::metadata(field.path().join("image/srv/d")).unwrap().uid(), first("/etc/subuid"));
        }
        assert_code(&verb(&field, &["rm", "image"]), 0);
    }

    #[test]
    fn a_changed_hard_link_is_named_and_exact_keeps_it() {
        let field = Field::small();
        std::fs::hard_link(field.root.join("etc/hosts"), field.root.join("etc/link")).unwrap();
        let same = || {
            let inode = |name: &str| std::fs::metadata(field.root.join(name)).unwrap().ino();
            inode("etc/hosts") == inode("etc/link")
        };
        let output = field.run(&["--exact"], "echo x >> /etc/hosts; mv /var/lib /var/moved");
        assert_code(&output, 0);
        assert!(stderr(&output).contains("works on a copy"), "{}", stderr(&output));
        assert!(same() && field.root.join("var/moved").is_dir());
        let output = field.run(&[], "echo y >> /etc/hosts");
        assert_code(&output, 0);
        assert!(stderr(&output).contains("/etc/hosts had 2 names in the image"), "{}", stderr(&output));
        assert!(!same());
        let strict = verb(
            &field,
            &["run", "--exact", "--backend", "overlay", "rootfs", "--", "sh", "-c", "ln /etc/passwd /etc/p2"],
        );
        assert_code(&strict, 0);
        let strict =
            verb(&field, &["run", "--exact", "--backend", "overlay", "rootfs", "--", "sh", "-c", "echo >> /etc/p2"]);
        assert_code(&strict, 125);
        assert_code(&verb(&field, &["discard", "rootfs"]), 0);
    }

    #[test]
    fn with_one_id_chown_fails_or_does_nothing() {
        let field = Field::small();
        let run = |options: &[&str], script: &str| {
            let arguments = [&["--map", "single", "run"], options, &["rootfs", "--", "sh", "-c", script]].concat();
            verb(&field, &arguments)
        };
        let output = run(&[], "touch /new; chown 5:5 /new");
        assert_ne!(output.status.code(), Some(0));
        assert!(
            stderr(&output).contains("One id only") && stderr(&output).contains("--suppress-chown"),
            "{}",
            stderr(&output)
        );
        let output =
            run(&["--suppress-chown"], "touch /new; ln -s x /l; chown 5:5 /new && chown -h 7 /l && stat -c %u /new /l");
        assert_code(&output, 0);
        assert_eq!(stdout(&output), "0\n0\n");
        let output = run(&["--user", "5"], "true");
        assert_code(&output, 125);
        assert!(stderr(&output).contains("no place in your user namespace"), "{}", stderr(&output));
    }

    #[test]
    fn entries_of_owners_without_a_place_are_told_before_anything_happens() {
        let field = Field::small();
        let script =
            "touch /etc/shadow; mkdir -p /var/mail /srv/data; chown 42:42 /etc/shadow; chown 8:8 /var/mail /srv/data";
        assert_code(&field.run(&[], script), 0);
        let output = verb(&field, &["--map", "single", "run", "rootfs", "--", "true"]);
        assert_code(&output, 125);
        for path in ["/etc/shadow", "/var/mail", "/srv/data"] {
            let told = stderr(&output).matches(&format!("rootfs{path} belongs to")).count();
            assert_eq!(told, 1, "{path}: {}", stderr(&output));
        }
    }

    #[test]
    fn what_is_missing_is_told_before_anything_happens() {
        let mut field = Field::small();
        field.forget_leaks();
        let before = field.snapshot();
        std::fs::create_dir(field.path().join("empty")).unwrap();
        let without = field.dropcloth(["run", "rootfs", "--", "true"]).env("PATH", "empty").output().unwrap();
        assert_code(&without, 125);
        assert!(
            stderr(&without).contains("apt-get install uidmap") && stderr(&without).contains("--map single"),
            "{}",
            stderr(&without)
        );
        let alone =
            field.dropcloth(["--map", "single", "run", "rootfs", "--", "true"]).env("PATH", "empty").output().unwrap();
        assert_code(&alone, 0);
        let foreign = verb(&field, &["run", "/usr", "--", "true"]);
        assert_code(&foreign, 125);
        assert!(stderr(&foreign).contains("no place in your user namespace"), "{}", stderr(&foreign));
        let mounts = verb(&field, &["run", "--mode", "discard", "/", "--", "true"]);
        assert_code(&mounts, 125);
        assert!(stderr(&mounts).contains("lay no overlay over that"), "{}", stderr(&mounts));
        tree::assert_same(&before, &field.snapshot(), "nothing happened");
    }

    #[test]
    fn the_doctor_names_what_is_missing_and_how_to_mend_it() {
        let mut field = Field::small();
        field.forget_leaks();
        let output = verb(&field, &["doctor", "--root", "rootfs", "--json"]);
        assert_code(&output, 0);
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(json["works"], true, "{json}");
        let checks = json["checks"].as_array().unwrap();
        assert!(checks.iter().any(|c| c["what"] == "subordinate ids" && c["verdict"] == "ok"), "{json}");
        assert!(!field.path().join(".dropcloth").exists());
        std::fs::create_dir(field.path().join("empty")).unwrap();
        let output = field.dropcloth(["doctor"]).env("PATH", "empty").output().unwrap();
        assert_code(&output, 1);
        assert!(stdout(&output).contains("fix: Install newuidmap"), "{}", stdout(&output));
    }
}

/// The limit holds in the namespace in which it is set, so this machine's own stays as it is.
#[test]
fn forbidden_user_namespaces_are_told_with_the_setting_that_forbids_them() {
    needs_sandbox!();
    let field = Field::small();
    let script = "echo 0 > /proc/sys/user/max_user_namespaces
        exec setpriv --bounding-set=-sys_admin --inh-caps=-all -- {} run ./rootfs -- true";
    let output = within(&field, &["unshare", "--user", "--map-root-user"], script);
    assert_code(&output, 125);
    assert!(stderr(&output).contains("sysctl user.max_user_namespaces"), "{}", stderr(&output));
}

#[test]
fn in_a_container_with_a_masked_proc_the_step_sees_the_containers() {
    needs_sandbox!();
    let field = Field::small();
    // What another namespace has mounted is locked in the next one, as in a container.
    let script = "mount --bind /dev/null /proc/timer_list
        exec unshare --user --map-root-user --mount sh -c \"{} run ./rootfs -- touch /etc/new; {} doctor | grep '^limit */proc'\"";
    let output = within(&field, &["unshare", "--user", "--map-root-user", "--mount"], script);
    assert_code(&output, 0);
    assert!(stderr(&output).contains("sees the /proc of this container"), "{}", stderr(&output));
    assert!(field.root.join("etc/new").exists());
}

#[test]
fn in_a_container_on_an_overlay_the_copy_backend_works() {
    needs_sandbox!();
    let mut field = Field::small();
    field.forget_leaks();
    let script =
        "mkdir low up work merged; mount -t overlay -o lowerdir=low,upperdir=up,workdir=work,userxattr none merged
        cp -a rootfs merged/image; cd merged; {} run image -- sh -c 'echo x > /etc/new' && cat image/etc/new";
    let output = within(&field, &["unshare", "--user", "--map-root-user", "--mount"], script);
    assert_code(&output, 0);
    assert_eq!(stdout(&output), "x\n");
    assert!(stderr(&output).contains("works on a copy of the image"), "{}", stderr(&output));
    // Its work directory belongs to the namespace.
    shell("chmod -R u+rwx work", field.path());
}

#[test]
fn in_bubblewrap_a_step_works() {
    needs_sandbox!();
    let field = Field::small();
    let path = field.path().display().to_string();
    let bwrap = [
        "bwrap",
        "--unshare-user",
        "--uid",
        "0",
        "--gid",
        "0",
        "--cap-add",
        "ALL",
        "--bind",
        "/",
        "/",
        "--dev",
        "/dev",
        "--proc",
        "/proc",
        "--bind",
        &path,
        &path,
    ];
    let output = within(&field, &bwrap, "{} run ./rootfs -- sh -c 'echo x > /etc/new'");
    assert_code(&output, 0);
    assert!(Path::new(&field.root).join("etc/new").exists());
}
