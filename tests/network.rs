//! `--network mirrors`, and what is told of hosts that a step asked for and did not get.
#![allow(missing_docs, clippy::disallowed_methods, reason = "a test starts programs and clears up after itself")]

#[path = "support/packages.rs"]
mod packages;
#[path = "support/sentinel.rs"]
mod sentinel;
mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Output;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use packages::Package;
use serde_json::Value;
use support::{Field, assert_code, stderr, stdout};

/// A server of this machine on a port of its own: remembers heads, and answers as it is told.
struct Server {
    port: u16,
    heads: Arc<Mutex<Vec<String>>>,
}

fn head(reader: &mut impl BufRead) -> String {
    let mut head = String::new();
    while reader.read_line(&mut head).is_ok_and(|read| read > 2) {}
    head
}

impl Server {
    fn start(answer: impl Fn(&str, &mut BufReader<TcpStream>) -> Vec<u8> + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (heads, answer) = (Arc::new(Mutex::new(Vec::new())), Arc::new(answer));
        let own = Arc::clone(&heads);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (own, answer) = (Arc::clone(&own), Arc::clone(&answer));
                std::thread::spawn(move || {
                    let mut reader = BufReader::new(stream);
                    let head = head(&mut reader);
                    own.lock().unwrap().push(head.clone());
                    let bytes = answer(&head, &mut reader);
                    let _ = reader.get_mut().write_all(&bytes);
                });
            }
        });
        Server { port, heads }
    }

    /// Answers every request with the path that was asked for.
    fn of_paths() -> Server {
        Server::start(|head, _| {
            let path = head.split(' ').nth(1).unwrap_or_default();
            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{path}", path.len()).into_bytes()
        })
    }

    /// Gives back what it gets.
    fn echo() -> Server {
        Server::start(|head, reader| {
            reader.get_mut().write_all(head.as_bytes()).unwrap();
            let mut to = reader.get_ref().try_clone().unwrap();
            let _ = std::io::copy(reader, &mut to);
            Vec::new()
        })
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

/// Sends text to the proxy as it is, and prints what comes back.
fn raw(request: &str) -> String {
    format!("printf '{}' | nc -w 10 127.0.0.1 3128", request.replace('\r', "\\r").replace('\n', "\\n"))
}

fn get(url: &str) -> String {
    raw(&format!("GET {url} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
}

fn mirrors(field: &Field, options: &[&str], script: &str) -> Output {
    let fixed = ["--mode", "discard", "--network", "mirrors", "--no-official", "--report", "report.json"];
    field.run(&[&fixed[..], options].concat(), script)
}

fn escapes(field: &Field) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(field.path().join("report.json")).unwrap();
    std::fs::remove_file(field.path().join("report.json")).unwrap();
    let report: Value = serde_json::from_str(&text).unwrap();
    let of = |e: &Value| {
        let port = e["port"].as_u64().map_or_else(String::new, |port| format!(":{port}"));
        (format!("{}{port}", e["host"].as_str().unwrap()), e["cause"].as_str().unwrap().to_owned())
    };
    report["escapes"].as_array().unwrap().iter().map(of).collect()
}

#[test]
fn the_proxy_leads_to_the_index_and_to_what_is_allowed_and_nowhere_else() {
    let field = Field::small();
    let (index, allowed, other) = (Server::of_paths(), Server::of_paths(), Server::of_paths());
    let urls: Vec<String> = [&index, &allowed, &other].map(|s| format!("http://127.0.0.1:{}", s.port)).into();
    let (index_url, allow) = (format!("{}/simple", urls[0]), format!("127.0.0.1:{}", allowed.port));
    let script: Vec<String> = urls.iter().map(|url| get(&format!("{url}/a?b"))).collect();
    let output = mirrors(&field, &["--index", &index_url, "--allow", &allow], &script.join("\n"));
    assert_code(&output, 0);
    let told = stdout(&output);
    assert_eq!(told.matches("\r\n\r\n/a?b").count(), 2, "{told}");
    let refused = format!("127.0.0.1:{}", other.port);
    assert!(told.contains("HTTP/1.1 403 ") && told.contains(&format!("`dropcloth run --allow {refused}`")), "{told}");
    assert!(index.heads()[0].starts_with("GET /a?b HTTP/1.1\r\nHost: 127.0.0.1:"), "{:?}", index.heads());
    assert_eq!(other.heads(), Vec::<String>::new());
    assert_eq!(escapes(&field), [(refused.clone(), "its command line names it".to_owned())]);
    assert!(stderr(&output).contains(&format!("{refused}: pid ")), "{}", stderr(&output));
}

#[test]
fn programs_find_the_proxy_by_their_variables_and_names_are_looked_up_outside() {
    let field = Field::small();
    let server = Server::of_paths();
    let allow = format!("localhost:{}", server.port);
    let script = format!("wget -q -O - http://{allow}/x; echo; cat /etc/resolv.conf; echo $no_proxy");
    let output = mirrors(&field, &["--allow", &allow], &script);
    assert_code(&output, 0);
    assert!(
        stdout(&output).starts_with("/x\n") && stdout(&output).contains("nameserver 127.0.0.1\n"),
        "{}",
        stdout(&output)
    );
    assert!(stdout(&output).ends_with("\n127.0.0.1,::1\n"), "{}", stdout(&output));
    assert_eq!(escapes(&field), []);
}

#[test]
fn a_tunnel_passes_bytes_both_ways_until_both_sides_are_done() {
    let field = Field::small();
    let server = Server::echo();
    let (allow, size) = (format!("127.0.0.1:{}", server.port), 3 << 20);
    let script = format!(
        "{{ printf 'CONNECT {allow} HTTP/1.1\\r\\n\\r\\nhello\\r\\n\\r\\n'; head -c {size} /dev/zero; }} | nc -w 10 127.0.0.1 3128 | wc -c"
    );
    let output = mirrors(&field, &["--allow", &allow], &script);
    assert_code(&output, 0);
    let own = "HTTP/1.1 200 Connection established\r\n\r\nhello\r\n\r\n".len();
    assert_eq!(stdout(&output).trim(), (own + size).to_string());
    assert_eq!(escapes(&field), []);
}

#[test]
fn a_connection_carries_several_requests_and_bodies_of_every_kind() {
    let field = Field::small();
    let server = Server::start(|head, reader| {
        let path = head.split(' ').nth(1).unwrap_or_default();
        match path {
            "/chunked" => b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n0\r\n\r\n".to_vec(),
            "/post" => {
                let mut body = [0; 3];
                reader.read_exact(&mut body).unwrap();
                [&b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n"[..], &body].concat()
            }
            "/early" => b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n".to_vec(),
            _ => b"HTTP/1.1 200 OK\r\n\r\nto the end".to_vec(),
        }
    });
    let base = format!("http://127.0.0.1:{}", server.port);
    let requests = [
        format!("GET {base}/chunked HTTP/1.1\r\nHost: x\r\n\r\n"),
        format!("POST {base}/post HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\ntwo"),
        format!("GET {base}/early HTTP/1.1\r\nHost: x\r\n\r\n"),
        format!("GET {base}/end HTTP/1.1\r\nHost: x\r\n\r\n"),
    ];
    let output = mirrors(&field, &["--allow", &format!("127.0.0.1:{}", server.port)], &raw(&requests.concat()));
    assert_code(&output, 0);
    let told = stdout(&output);
    let order = ["3\r\none\r\n0\r\n\r\n", "100 Continue", "\r\n\r\ntwo", "204 No Content", "to the end"];
    let places: Vec<Option<usize>> = order.iter().map(|text| told.find(text)).collect();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{places:?} {told}");
    assert_eq!(escapes(&field), []);
    assert!(!told.contains("Early") && server.heads().iter().all(|h| h.contains("Connection: close")), "{told}");
}

#[test]
fn hostile_requests_end_alone_and_the_proxy_goes_on() {
    let field = Field::small();
    let server = Server::of_paths();
    let url = format!("http://127.0.0.1:{}", server.port);
    let script = [
        "head -c 300000 /dev/zero | tr '\\0' A | nc -w 5 127.0.0.1 3128 | head -c 100".to_owned(),
        "{ printf 'GET http://x/ HTTP/1.1\\r\\n'; yes 'A: b' | head -n 100000; } | nc -w 5 127.0.0.1 3128 | head -c 100".to_owned(),
        raw("GET / HTTP/1.1\r\n\r\n"),
        raw("POST http://x/ HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"),
        "for i in $(seq 50); do nc -w 30 127.0.0.1 3128 </dev/zero >/dev/null 2>&1 & done".to_owned(),
        get(&format!("{url}/still")),
    ];
    let output = mirrors(&field, &["--allow", &format!("127.0.0.1:{}", server.port)], &script.join("\n"));
    assert_code(&output, 0);
    let told = stdout(&output);
    assert_eq!(told.matches("HTTP/1.1 400 ").count(), 2, "{told}");
    assert!(told.ends_with("\r\n\r\n/still"), "{told}");
    assert_eq!(escapes(&field), []);
    assert_eq!(server.heads().len(), 1);
}

#[test]
fn behind_a_proxy_of_the_machine_the_way_leads_through_it() {
    let field = Field::small();
    let upstream = Server::start(|head, _| match head.starts_with("CONNECT ") {
        true => b"HTTP/1.1 200 OK\r\n\r\ntunnelled".to_vec(),
        false => b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nplain".to_vec(),
    });
    let near = Server::of_paths();
    let near_host = format!("127.0.0.1:{}", near.port);
    let script = [
        get("http://far.example/x"),
        raw("CONNECT far.example:443 HTTP/1.1\r\n\r\n"),
        get(&format!("http://{near_host}/near")),
        get("http://other.example/"),
    ];
    let proxy = format!("http://user:p%40ss@127.0.0.1:{}", upstream.port);
    let options =
        ["--mode", "discard", "--network", "mirrors", "--allow", "*.example:443", "--allow", "far.example:80"];
    let allow = ["--allow", &near_host, "./rootfs", "--", "sh", "-c"];
    let script = script.join("\n");
    let arguments = [&["run"][..], &options, &allow, &[script.as_str()]].concat();
    let output = field.dropcloth(arguments).env("http_proxy", &proxy).env("HTTPS_PROXY", &proxy).output().unwrap();
    assert_code(&output, 0);
    let told = stdout(&output);
    assert!(told.contains("\r\n\r\nplain") && told.contains("tunnelled") && told.contains("\r\n\r\n/near"), "{told}");
    assert!(told.contains("--allow other.example"), "{told}");
    let heads = upstream.heads();
    assert_eq!(heads.len(), 2, "{heads:?}");
    assert!(heads[0].starts_with("GET http://far.example/x HTTP/1.1\r\n"), "{heads:?}");
    assert!(heads[1].starts_with("CONNECT far.example:443 HTTP/1.1\r\n"), "{heads:?}");
    assert!(heads.iter().all(|head| head.contains("Proxy-Authorization: Basic dXNlcjpwQHNz\r\n")), "{heads:?}");
}

#[test]
fn names_and_addresses_past_the_proxy_are_refused_at_once_and_told() {
    let field = Field::small();
    let script = "unset http_proxy HTTP_PROXY; wget -q -O - http://pypi.example/; nc -w 5 192.0.2.7 4711 </dev/null; wget -q -O - http://local.test:0/; true";
    for network in ["mirrors", "none"] {
        let started = Instant::now();
        let options = ["--mode", "discard", "--network", network, "--escape", "warn", "--report", "report.json"];
        let output = field.run(&options, script);
        assert_code(&output, 0);
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        let hosts: Vec<String> = escapes(&field).into_iter().map(|(host, _)| host).collect();
        assert_eq!(hosts, ["pypi.example", "192.0.2.7:4711", "local.test"], "{}", stderr(&output));
        assert!(
            stderr(&output).contains("wget -q -O - http://pypi.example/ (its command line names it)"),
            "{}",
            stderr(&output)
        );
    }
}

#[test]
fn the_step_talks_to_itself_as_it_likes() {
    let field = Field::small();
    let script = "echo hello | nc -l -p 5000 >/tmp/got & sleep 1; nc -w 5 127.0.0.1 5000 </dev/null; nc -w 1 local:/tmp/none </dev/null; hostname; nslookup localhost; nslookup $(hostname); true";
    for options in [&["--network", "mirrors"][..], &["--network", "none", "--escape", "fail"]] {
        let output = field.run(&[&["--mode", "discard", "--report", "report.json"], options].concat(), script);
        assert_code(&output, 0);
        assert!(stdout(&output).starts_with("hello\n"), "{}", stdout(&output));
        assert_eq!(escapes(&field), []);
    }
}

#[test]
fn the_proxy_leads_to_the_steps_own_servers_too() {
    let field = Field::small();
    let serve = "printf 'HTTP/1.1 200 OK\\r\\n\\r\\nown' | nc -l -p 5001 >/tmp/got & sleep 0.5";
    let script = format!("{serve}\n{}\n{}", get("http://localhost:5001/"), get("http://localhost:5002/"));
    let output = mirrors(&field, &[], &script);
    assert_code(&output, 0);
    assert!(stdout(&output).contains("\r\n\r\nownHTTP/1.1 403"), "{}", stdout(&output));
    assert_eq!(escapes(&field), [("localhost:5002".to_owned(), "nothing is known that leads there".to_owned())]);
}

/// What the image's own pip does with an index whose files are at another host.
#[test]
fn pip_installs_from_an_index_whose_links_lead_to_a_host_that_is_allowed() {
    let field = Field::small();
    let root = support::debian_root();
    let package = Package::wheel("app", "1.0");
    let (name, bytes) = (package.file_name(), package.bytes());
    let files = Server::start(move |_, _| {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", bytes.len());
        [head.as_bytes(), &bytes].concat()
    });
    let link = format!("<a href='http://127.0.0.1:{}/{name}'>{name}</a>", files.port);
    let index = Server::start(move |_, _| {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\n\r\n", link.len());
        (head + &link).into_bytes()
    });
    let (url, allow) = (format!("http://localhost:{}/simple", index.port), format!("127.0.0.1:{}", files.port));
    let run = |options: &[&str]| {
        let fixed = [
            "run",
            "--mode",
            "discard",
            "--network",
            "mirrors",
            "--no-official",
            "--report",
            "report.json",
            "--index",
            &url,
        ];
        let scratch = field.path().join("scratch");
        let command = [root.to_str().unwrap(), "--", "pip", "install", "--target", "/tmp/t", "app"];
        let place = ["--scratch", scratch.to_str().unwrap()];
        field.dropcloth([&fixed[..], &place, options, &command].concat()).output().unwrap()
    };
    let started = Instant::now();
    assert_code(&run(&[]), 1);
    assert!(started.elapsed() < Duration::from_secs(6), "{:?}", started.elapsed());
    assert_eq!(escapes(&field), [(allow.clone(), "a link of an index, or a redirect, it seems".to_owned())]);
    let output = run(&["--allow", &allow, "--escape", "fail"]);
    assert_code(&output, 0);
    assert!(stdout(&output).contains("Successfully installed app-1.0"), "{}", stdout(&output));
    assert_eq!(escapes(&field), []);
}

#[test]
fn a_run_that_must_not_escape_fails_and_leaves_the_image_as_it_was() {
    let field = Field::small();
    let before = field.snapshot();
    let script = "echo new > /new; wget -q -O - http://pypi.example/; true";
    let output = field.run(&["--network", "none", "--escape", "fail"], script);
    assert_code(&output, 123);
    assert!(
        stderr(&output).contains("pypi.example") && stderr(&output).contains("--escape fail"),
        "{}",
        stderr(&output)
    );
    assert_eq!(field.snapshot(), before);
    // A step that failed itself keeps its own code.
    assert_code(&field.run(&["--network", "none", "--escape", "fail"], "nslookup pypi.example; exit 7"), 7);
    // Nobody asked.
    let output = field.run(&["--mode", "discard", "--network", "none"], script);
    assert_code(&output, 0);
    assert!(!stderr(&output).contains("pypi.example: pid"), "{}", stderr(&output));
}

#[test]
fn whoever_kills_the_watch_reaches_nobody_and_does_not_pass_for_quiet() {
    let field = Field::small();
    let kill = "for p in /proc/[0-9]*; do p=${p#/proc/}; [ $p = 1 ] || [ $p = $$ ] || kill -9 $p 2>/dev/null; done";
    let script =
        format!("{kill}; sleep 0.3; wget -q -T 5 -O - http://pypi.example/; echo hello > /tmp/x && cat /tmp/x");
    let output = field.run(&["--network", "mirrors", "--escape", "fail"], &script);
    assert_code(&output, 123);
    assert!(stdout(&output) == "hello\n" && stderr(&output).contains("killed what watches"), "{}", stderr(&output));
}

#[test]
fn what_makes_no_sense_is_refused_or_said() {
    let field = Field::small();
    let output = field.run(&["--escape", "fail"], "true");
    assert_code(&output, 125);
    assert!(stderr(&output).contains("--network mirrors"), "{}", stderr(&output));
    let output = field.run(&["--network", "mirrors", "--allow", "http://x/"], "true");
    assert_code(&output, 125);
    assert!(stderr(&output).contains("--allow deb.debian.org"), "{}", stderr(&output));
    let output = field.run(&["--mode", "discard", "--allow", "x.example"], "true");
    assert_code(&output, 0);
    assert!(stderr(&output).contains("--allow is for --network mirrors"), "{}", stderr(&output));
}

#[test]
fn a_settings_file_allows_hosts_and_the_plan_shows_them() {
    let field = Field::small();
    std::fs::write(
        field.path().join("dropcloth.yaml"),
        "network: mirrors\nallow: [deb.example, '*.site.example:8080']\nescape: fail\n",
    )
    .unwrap();
    let output = field.dropcloth(["plan", "./rootfs", "--", "true"]).output().unwrap();
    assert_code(&output, 0);
    let line = stdout(&output).lines().find(|line| line.starts_with("network")).unwrap().to_owned();
    for word in ["pypi.org:443", "files.pythonhosted.org:443", "deb.example", "*.site.example:8080", "fails"] {
        assert!(line.contains(word), "{line}");
    }
    std::fs::remove_file(field.path().join("dropcloth.yaml")).unwrap();
}

/// Its chroots are in a network that is not ours.
#[test]
fn who_enters_the_image_without_a_run_has_no_proxy_of_ours() {
    let field = Field::small();
    let state = tempfile::tempdir().unwrap();
    std::fs::write(field.path().join("dropcloth.yaml"), "network: mirrors\nescape: fail\nindex: http://127.0.0.1:1/\n")
        .unwrap();
    let chroot = |transaction: &str, script: &str| {
        let mut command = field.dropcloth(["chroot", "./rootfs", "/bin/sh", "-c", script]);
        command.env("XDG_STATE_HOME", state.path());
        if !transaction.is_empty() {
            command.env("DROPCLOTH_TRANSACTION", transaction);
        }
        command.output().unwrap()
    };
    let output = chroot("", "cat /etc/pip.conf; echo \"$http_proxy\"");
    assert_code(&output, 0);
    assert!(
        stdout(&output).contains("index-url = http://127.0.0.1:1/") && !stdout(&output).contains("3128"),
        "{}",
        stdout(&output)
    );
    // A step of a transaction is a run.
    assert_code(&field.dropcloth(["begin", "--name", "t", "./rootfs"]).output().unwrap(), 0);
    let output = chroot("t", "nslookup pypi.example; echo $http_proxy");
    assert_code(&output, 123);
    assert!(stdout(&output).contains("3128") && stderr(&output).contains("pypi.example: pid "), "{}", stderr(&output));
    assert_code(&field.dropcloth(["discard", "t"]).output().unwrap(), 0);
    std::fs::remove_file(field.path().join("dropcloth.yaml")).unwrap();
}

mod as_root {
    use super::*;
    use sentinel::{Layered, Sentinel};

    struct Case {
        name: &'static str,
        files: &'static [(&'static str, &'static str)],
        script: &'static str,
        host: &'static str,
        cause: &'static str,
    }

    const SETUP: (&str, &str) = (
        "root/s/setup.py",
        "from setuptools import setup\nsetup(name='mine', version='1', install_requires=['itsdangerous'], py_modules=[])\n",
    );
    const PDM: &str = "[project]\nname = 'mine'\nversion = '1'\nrequires-python = '>=3.11'\ndependencies = ['itsdangerous']\n[[tool.pdm.source]]\nname = 'corp'\nurl = 'https://corp.example/simple'\n";
    const POETRY: &str = "[tool.poetry]\nname = 'mine'\nversion = '1'\ndescription = ''\nauthors = []\npackage-mode = false\n[tool.poetry.dependencies]\npython = '^3.11'\nitsdangerous = '*'\n";
    const PIP: &str = "cd /root; python pip22 -m pip install --no-deps --target /tmp/t -r r.txt";

    /// Those of tests/escape.rs that no configuration holds.
    #[rustfmt::skip]
    const CASES: &[Case] = &[
        Case { name: "S12b", files: &[("root/r.txt", "--find-links https://corp.example/links\nitsdangerous\n")], script: PIP, host: "corp.example", cause: "r.txt line 1: --find-links" },
        Case { name: "S13", files: &[("root/r.txt", "# from elsewhere\nitsdangerous @ https://files.example/itsdangerous-2.2.0-py3-none-any.whl\n")], script: PIP, host: "files.example", cause: "r.txt line 2: direct URL" },
        Case { name: "S24", files: &[], script: "PIP_CONFIG_FILE=/dev/null python pip26 -m pip --isolated install --retries 0 --target /tmp/t itsdangerous", host: "pypi.org", cause: "pip --isolated" },
        Case { name: "EI3b", files: &[SETUP], script: "cd /root/s; env -i HOME=/nowhere PATH=/usr/bin:/bin http_proxy=$http_proxy https_proxy=$https_proxy $tools/setuptools65/bin/python setup.py --quiet install", host: "pypi.org", cause: "setuptools" },
        Case { name: "EI7", files: &[SETUP, ("root/s/setup.cfg", "[easy_install]\nindex_url = https://corp.example/simple\n")], script: "cd /root/s; python setuptools41 setup.py --quiet install", host: "corp.example", cause: "setup.cfg line 2: index_url" },
        Case { name: "D4", files: &[("root/p/pyproject.toml", PDM)], script: "cd /root/p; $tools/pdm/bin/pdm use -q -f $tools/pip26/bin/python; $tools/pdm/bin/pdm lock -q", host: "corp.example", cause: "pyproject.toml line 8: url" },
        Case { name: "P1", files: &[("root/p/pyproject.toml", POETRY)], script: "cd /root/p; $tools/poetry/bin/poetry lock -q", host: "pypi.org", cause: "poetry has no setting for a mirror" },
    ];

    const PRELUDE: &str =
        "export PYTHONDONTWRITEBYTECODE=1\ntools=/opt/tools\npython() { p=$1; shift; $tools/$p/bin/python \"$@\"; }\n";

    /// The sentinel is the network of this machine: it would see what the door lets through.
    #[test]
    fn what_no_configuration_holds_reaches_nobody_and_is_told_with_its_cause() {
        needs_root!();
        let root = support::made(&["make-tools"], "roots/tools");
        let mirror = support::mirror();
        let mut failed = Vec::new();
        Sentinel::inside(|sentinel| {
            for (case, network) in CASES.iter().flat_map(|case| ["none", "mirrors"].map(|network| (case, network))) {
                let image = Layered::over(&root, case.files);
                let report = image.path("report.json");
                let started = Instant::now();
                let output = std::process::Command::new(support::binary())
                    .args(["run", "--mode", "discard", "--no-official", "--network", network, "--escape", "warn"])
                    .args(["--scratch", &image.path("scratch"), "--report", &report, "--mirror"])
                    .arg(&mirror)
                    .args([&image.path("root"), "--", "sh", "-c", &format!("{PRELUDE}{}", case.script)])
                    .env_clear()
                    .env("PATH", std::env::var_os("PATH").unwrap_or_default())
                    .env("HOME", image.path("scratch"))
                    .output()
                    .unwrap();
                let seen = sentinel.take();
                let text = std::fs::read(&report).unwrap_or_else(|_| panic!("{}: {}", case.name, stderr(&output)));
                let told: Value = serde_json::from_slice(&text).unwrap();
                let named = told["escapes"].as_array().unwrap().iter().any(|e| {
                    e["host"] == case.host
                        && e["cause"].as_str().unwrap().starts_with(case.cause)
                        && e["pid"].is_number()
                        || e["host"] == case.host && e["cause"].as_str().unwrap().contains(case.cause)
                });
                println!("{} {network}: {:.1} s, {}", case.name, started.elapsed().as_secs_f64(), told["escapes"]);
                if !seen.is_empty() || !named {
                    let said = format!("{}{}", stdout(&output), stderr(&output));
                    failed.push(format!("{} {network}: seen {seen:?}, told {}\n{said}", case.name, told["escapes"]));
                }
            }
        });
        assert!(failed.is_empty(), "{} cases:\n{}", failed.len(), failed.join("\n----\n"));
    }

    /// apt goes by plain http, in several requests of one connection.
    #[test]
    fn apt_fetches_through_the_proxy() {
        needs_root!();
        let field = Field::of(&support::debian_root());
        let server = Server::start(|head, _| {
            let path = head.split(' ').nth(1).unwrap_or_default();
            match path.ends_with("/Packages") {
                true => b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec(),
                false => b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec(),
            }
        });
        let host = format!("localhost:{}", server.port);
        let script = format!(
            "rm -rf /etc/apt/sources.list*; echo 'deb [trusted=yes] http://{host}/debian ./' > /etc/apt/sources.list
             apt-get update && echo 'deb http://elsewhere.example/debian x main' > /etc/apt/sources.list && ! apt-get update -o APT::Update::Error-Mode=any"
        );
        let output = mirrors(&field, &["--allow", &host], &script);
        assert_code(&output, 0);
        assert!(server.heads().iter().any(|head| head.contains("/debian/./Packages")), "{:?}", server.heads());
        let told = escapes(&field);
        assert_eq!(told, [("elsewhere.example:80".to_owned(), "/etc/apt/sources.list line 1".to_owned())]);
    }
}
