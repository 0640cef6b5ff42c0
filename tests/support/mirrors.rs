//! Mirrors made and served by `dropcloth mirror`, and the real installers let loose on them.
#![allow(dead_code, missing_docs, reason = "each test target uses a part of this")]

use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use super::packages::Package;
use super::support::{self, assert_code, stderr, stdout};

/// Installers below /opt/tools of the root with all of them.
pub const INSTALLERS: [&str; 4] = ["pip20", "pip22", "pip26", "uv"];

pub struct Ground {
    pub files: tempfile::TempDir,
}

impl Ground {
    pub fn new() -> Ground {
        Ground { files: tempfile::tempdir_in(support::temporary()).unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    pub fn dropcloth(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(support::binary());
        command.args(arguments).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", self.files.path()).current_dir(self.files.path()).stdin(Stdio::null());
        command
    }

    pub fn mirror(&self, arguments: &[&str]) -> Output {
        self.dropcloth(&[&["mirror"], arguments].concat()).output().unwrap()
    }

    /// A flat folder `m` of these packages.
    pub fn flat(&self, packages: &[Package]) {
        std::fs::create_dir_all(self.path("m")).unwrap();
        for package in packages {
            std::fs::write(self.path("m").join(package.file_name()), package.bytes()).unwrap();
        }
    }

    pub fn indexed(&self, packages: &[Package]) -> String {
        self.flat(packages);
        let output = self.mirror(&["index", "m"]);
        assert_code(&output, 0);
        stderr(&output)
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Replaces a text in a page.
    pub fn edit(&self, name: &str, from: &str, to: &str) {
        let text = self.read(name);
        assert!(text.contains(from), "{name} has no {from}: {text}");
        self.write(name, text.replace(from, to));
    }

    /// Which of the installers, in a step whose only index is `url`, install `app`; the mirror `m` is at /srv/m.
    pub fn install(&self, url: &str, network: &str) -> Vec<(&'static str, bool, String)> {
        let root = support::made(&["make-tools"], "roots/tools");
        let installers = INSTALLERS.join(" ");
        let script = format!(
            "for tool in {installers}; do
                 rm -rf /tmp/t
                 case $tool in
                     uv) /opt/tools/uv/bin/uv pip install --no-cache --no-config --default-index {url} --target /tmp/t app ;;
                     *) /opt/tools/$tool/bin/python -m pip --isolated install --no-cache-dir --index-url {url} --target /tmp/t app ;;
                 esac >/tmp/log 2>&1
                 ls /tmp/t 2>/dev/null | grep -qi '^app.py$' && echo \"$tool yes\" || echo \"$tool no\"
                 sed 's/^/  /' /tmp/log
             done"
        );
        let bind = format!("{}:/srv/m:ro", self.path("m").display());
        let fixed = ["run", "--mode", "discard", "--network", network, "--bind", &bind, root.to_str().unwrap(), "--"];
        let output = self.dropcloth(&[&fixed[..], &["sh", "-c", &script]].concat()).output().unwrap();
        assert_code(&output, 0);
        let text = stdout(&output);
        let mut found = Vec::new();
        for tool in INSTALLERS {
            let after = text.split_once(&format!("{tool} yes")).map(|(_, after)| (true, after));
            let (yes, after) =
                after.or_else(|| text.split_once(&format!("{tool} no")).map(|(_, a)| (false, a))).unwrap();
            let said: Vec<&str> = after.lines().skip(1).take_while(|line| line.starts_with("  ")).collect();
            found.push((tool, yes, said.join("\n")));
        }
        found
    }
}

/// `dropcloth mirror serve` for as long as this lives.
pub struct Served {
    child: Child,
    pub url: String,
}

impl Served {
    pub fn start(ground: &Ground, directory: &str) -> Served {
        let mut command = ground.dropcloth(&["mirror", "serve", directory, "--listen", "127.0.0.1:0"]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Served { child, url: line.trim().to_owned() }
    }

    /// Status and headers, and body, of a request with these headers.
    pub fn ask(&self, path: &str, headers: &str) -> (String, Vec<u8>) {
        let host = self.url.trim_start_matches("http://").split('/').next().unwrap();
        let mut stream = std::net::TcpStream::connect(host).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}\r\n").unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let end = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
        (String::from_utf8_lossy(&answer[..end]).into_owned(), answer[end + 4..].to_vec())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn app() -> Vec<Package> {
    vec![Package::wheel("app", "1.0").needs("lib>=2"), Package::wheel("lib", "1.0"), Package::wheel("lib", "2.5")]
}

pub fn assert_all_install(found: &[(&'static str, bool, String)]) {
    for (tool, yes, said) in found {
        assert!(yes, "{tool}:\n{said}");
    }
}
