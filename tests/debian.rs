//! Real packages in a real Debian root: pip from the mirror, apt from the network.
#![allow(missing_docs, clippy::disallowed_methods, reason = "a test starts programs and clears up after itself")]

mod support;

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use support::{Field, assert_code, debian_root, mirror, project, stderr, stdout, tree};

/// Options that make two installations of the same wheels equal but for the clock: no byte code, which holds times.
const PIP: [&str; 5] = ["pip", "install", "--break-system-packages", "--no-compile", "--root-user-action=ignore"];

fn requirements() -> Vec<String> {
    let text = std::fs::read_to_string(project().join("target/mirror-requirements.txt")).unwrap();
    assert!(text.lines().count() >= 20, "about twenty distributions");
    text.lines().map(str::to_owned).collect()
}

fn offline(mirror: &str) -> Vec<&str> {
    vec!["--network", "none", "--mirror", mirror, "--env", "PYTHONDONTWRITEBYTECODE=1"]
}

/// Differences that are not times of entries.
fn without_times(all: Vec<String>) -> Vec<String> {
    all.into_iter().filter(|line| !line.contains("mtime")).collect()
}

#[test]
fn a_stack_installed_offline_equals_that_of_plain_chroot_and_nothing_else_differs() {
    needs_sandbox!();
    let original = debian_root();
    let mirror = mirror().display().to_string();
    let (ours, control) = (Field::of(&original), Field::of(&original));
    let before = ours.snapshot();
    let wanted = requirements();
    let words: Vec<&str> = PIP.iter().copied().chain(wanted.iter().map(String::as_str)).collect();
    assert_code(&ours.run_command(&offline(&mirror), &words), 0);

    // Plain chroot, in namespaces of the test's own, with the same configuration as files, removed afterwards.
    let script = r#"mount --make-rprivate / && mkdir rootfs/tmp/pypi && mount --bind "$MIRROR" rootfs/tmp/pypi
        mount -t proc proc rootfs/proc && mount --bind /dev/null rootfs/dev/null
        printf '[global]\nindex-url = file:///tmp/pypi\nno-cache-dir = true\nretries = 0\n' > rootfs/etc/pip.conf
        env -i PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin HOME=/root LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1 \
            PIP_DISABLE_PIP_VERSION_CHECK=1 chroot rootfs "$@"
        umount rootfs/tmp/pypi rootfs/proc rootfs/dev/null && rmdir rootfs/tmp/pypi && rm rootfs/etc/pip.conf"#;
    let plain = Command::new("unshare")
        .args(["-m", "-n", "-p", "-f", "sh", "-ec", script, "sh"])
        .args(&words)
        .env("MIRROR", &mirror)
        .current_dir(control.path())
        .output()
        .unwrap();
    assert_code(&plain, 0);
    let differences = without_times(tree::diff(&control.snapshot(), &ours.snapshot()));
    assert!(differences.is_empty(), "{differences:#?}");

    // And against the untouched root: packages, scripts, and the directories that hold them.
    let places = ["usr/local/lib/python3.11/dist-packages", "usr/local/bin"];
    let allowed = |line: &String| {
        places.iter().any(|place| line.contains(place))
            || line.contains("usr/local/man")
            || line.contains("usr/local/share")
    };
    let other: Vec<String> = tree::diff(&before, &ours.snapshot()).into_iter().filter(|l| !allowed(l)).collect();
    // pip makes and removes its temporary directories in /tmp, under plain chroot as well.
    let parents: Vec<&String> =
        other.iter().filter(|l| !l.contains("usr/local") && !l.starts_with("! \"tmp\": mtime")).collect();
    assert!(parents.is_empty(), "{parents:#?}");
    for path in [
        "tmp/pypi",
        "root/.pip",
        "root/.pip.conf",
        "root/.config",
        "root/.cache",
        "root/.pydistutils.cfg",
        "etc/pip.conf",
    ] {
        assert!(!ours.root.join(path).exists(), "{path}");
    }
    assert_code(&ours.run(&[], "python3 -c 'import requests, flask, rich, yaml, docopt, tabulate, colorama'"), 0);
}

#[test]
fn every_override_wins_inside_and_is_never_in_the_image() {
    needs_sandbox!();
    let mirror = mirror().display().to_string();
    let field = Field::of(&debian_root());
    std::fs::write(field.root.join("etc/pip.conf"), "[install]\nindex-url = http://corp.invalid/simple\n").unwrap();
    std::fs::create_dir_all(field.root.join("root/.config/pip")).unwrap();
    std::fs::write(
        field.root.join("root/.config/pip/pip.conf"),
        "[global]\nextra-index-url = http://evil.invalid/simple\n",
    )
    .unwrap();
    let before = field.snapshot();
    let seen = field.run(
        &offline(&mirror),
        "pip config list; cat ~/.pydistutils.cfg ~/.pip/pip.conf ~/.pip.conf /run/dropcloth/uv.toml",
    );
    assert_code(&seen, 0);
    let text = stdout(&seen);
    assert!(
        text.contains("install.no-index='true'")
            && text.contains("install.find-links='file:///tmp/pypi/links.html'")
            && text.contains("index_url = file:///tmp/pypi"),
        "{text}"
    );
    assert!(!text.contains("invalid"), "{text}");
    let script = "pip install --break-system-packages --target /tmp/there idna >/dev/null && rm -r /tmp/there";
    assert_code(&field.run(&offline(&mirror), script), 0);
    let left: Vec<String> =
        tree::diff(&before, &field.snapshot()).into_iter().filter(|l| !l.contains("mtime")).collect();
    assert!(left.is_empty(), "{left:#?}");
}

#[test]
fn without_a_mirror_nothing_is_laid_over_for_python_and_one_note_says_so() {
    needs_sandbox!();
    let field = Field::of(&debian_root());
    let output =
        field.run(&[], "pip config list; test ! -e /tmp/pypi && test ! -e /etc/pip.conf && test ! -e /run/dropcloth");
    assert_code(&output, 0);
    assert_eq!(stdout(&output), "");
    assert_eq!(stderr(&output).matches("note:").count(), 1, "{}", stderr(&output));
}

/// A web server on a port of the loopback interface, ended with the test.
struct Server(Child, String);

impl Server {
    fn start(directory: &Path) -> Server {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new("python3")
            .args(["-m", "http.server", "--bind", "127.0.0.1", "--directory"])
            .arg(directory)
            .arg(port.to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Server(child, format!("http://127.0.0.1:{port}"));
        for _ in 0..200 {
            if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return server;
            }
            std::thread::park_timeout(std::time::Duration::from_millis(50));
        }
        panic!("the web server does not answer");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn mirrors_of_diskimage_builders_variables_are_used_over_http() {
    needs_sandbox!();
    let field = Field::of(&debian_root());
    let server = Server::start(&mirror());
    let run = |script: &str| -> Output {
        field
            .dropcloth(["run", "--mode", "discard", "./rootfs", "--", "sh", "-c", script])
            .env("DIB_PYPI_MIRROR_URL", &server.1)
            .env("DIB_PYPI_MIRROR_URL_1", format!("{}/", server.1.replace("127.0.0.1", "localhost")))
            .env("DIB_NO_PYPI_PIP", "1")
            .output()
            .unwrap()
    };
    let shown = run("cat /etc/pip.conf ~/.pydistutils.cfg");
    assert_code(&shown, 0);
    let text = stdout(&shown);
    let host = server.1.strip_prefix("http://").unwrap();
    assert!(text.contains(&format!("index-url = {}\n", server.1)), "{text}");
    assert!(
        text.contains(&format!("trusted-host =\n    {host}\n    {}\n", host.replace("127.0.0.1", "localhost"))),
        "{text}"
    );
    assert!(text.contains(&format!("index_url = {}/\n", server.1.replace("127.0.0.1", "localhost"))), "{text}");
    assert!(!text.contains("pypi.org"), "{text}");
    assert_code(&run("pip install --break-system-packages requests && python3 -c 'import requests'"), 0);
}

/// A package whose script starts a daemon by itself, as careless ones do, and asks for a service in the proper way.
fn careless_package(field: &Field) -> std::path::PathBuf {
    let tree = field.path().join("careless");
    std::fs::create_dir_all(tree.join("DEBIAN")).unwrap();
    std::fs::create_dir_all(tree.join("usr/share/careless")).unwrap();
    std::fs::write(tree.join("usr/share/careless/file"), "here\n").unwrap();
    let control = "Package: careless\nVersion: 1.0\nArchitecture: all\nMaintainer: nobody <nobody@example.org>\nDescription: leaves a daemon\n";
    std::fs::write(tree.join("DEBIAN/control"), control).unwrap();
    let script = "#!/bin/sh\nset -e\nsetsid sleep 4242 >/dev/null 2>&1 </dev/null &\ninvoke-rc.d --quiet nothing start || echo \"invoke-rc.d: $?\"\n";
    std::fs::write(tree.join("DEBIAN/postinst"), script).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(tree.join("DEBIAN/postinst"), mode).unwrap();
    let package = field.path().join("careless.deb");
    let built =
        Command::new("dpkg-deb").args(["--build", "--root-owner-group"]).arg(&tree).arg(&package).output().unwrap();
    assert_code(&built, 0);
    std::fs::remove_dir_all(tree).unwrap();
    package
}

#[test]
fn a_package_that_leaves_a_daemon_is_installed_and_the_daemon_is_dead() {
    needs_sandbox!();
    let field = Field::of(&debian_root());
    let package = careless_package(&field);
    let bind = format!("{}:/mnt/careless.deb:ro", package.display());
    let output =
        field.run(&["--bind", &bind], "dpkg -i /mnt/careless.deb && test -x /usr/sbin/policy-rc.d && dpkg -s careless");
    assert_code(&output, 0);
    assert!(stdout(&output).contains("Status: install ok installed"), "{}", stdout(&output));
    assert!(!field.root.join("usr/sbin/policy-rc.d").exists() && !field.root.join("mnt/careless.deb").exists());
    assert!(field.root.join("usr/share/careless/file").exists());
    let alive = Command::new("pgrep").args(["-f", "sleep 4242"]).output().unwrap();
    assert!(alive.stdout.is_empty(), "the daemon lives");
    std::fs::remove_file(package).unwrap();
}

#[test]
fn apt_installs_a_package_with_a_service_over_the_network() {
    needs_sandbox!();
    let field = Field::of(&debian_root());
    let resolver = std::fs::read(field.root.join("etc/resolv.conf")).unwrap();
    let output = field.run(
        &["--env", "DEBIAN_FRONTEND=noninteractive"],
        "apt-get update -q && apt-get install -q -y --no-install-recommends cron && dpkg -s cron && ! pidof cron",
    );
    assert_code(&output, 0);
    assert!(stdout(&output).contains("Status: install ok installed"), "{}", stdout(&output));
    assert!(field.root.join("usr/sbin/cron").exists());
    assert!(!field.root.join("usr/sbin/policy-rc.d").exists());
    assert_eq!(std::fs::read(field.root.join("etc/resolv.conf")).unwrap(), resolver);
    assert_code(
        &field.run(
            &["--mode", "discard", "--network", "none"],
            "dpkg --verify cron && crontab -l 2>&1 | grep -q 'no crontab'",
        ),
        0,
    );
}
