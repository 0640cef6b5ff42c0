//! Where the real installers go while a step runs: every connection to anything but the mirror is seen by a sentinel.
//!
//! docs/python.md has the table of these cases, by their names. The network of the step is the sentinel's, so that it is the
//! configuration alone that holds; what configuration cannot hold is tried again with `--network none` and `mirrors`: then nobody
//! is reached, and the report of escapes names the hosts that the sentinel saw before.
#![allow(missing_docs, clippy::disallowed_methods, reason = "a test starts programs and clears up after itself")]

#[path = "support/sentinel.rs"]
mod sentinel;
mod support;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;

use sentinel::{Layered, Sentinel};

/// What holds a case.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Held {
    /// Files and variables: it installs, and nobody else is asked.
    Installs,
    /// Files and variables: it fails, and nobody else is asked.
    FailsClosed,
    /// Only the network.
    ByNetwork,
}
use Held::{ByNetwork, FailsClosed, Installs};

struct Case {
    name: &'static str,
    /// Files of the image.
    files: &'static [(&'static str, &'static str)],
    script: &'static str,
    held: Held,
}

const fn case(
    name: &'static str,
    files: &'static [(&'static str, &'static str)],
    script: &'static str,
    held: Held,
) -> Case {
    Case { name, files, script, held }
}

/// What every script can use. `each_pip` runs a command with each pip as `$PIP`; `get` is an installation into a folder that
/// has to be there afterwards.
const PRELUDE: &str = r#"
set -eu
export PYTHONDONTWRITEBYTECODE=1
tools=/opt/tools
python() { p=$1; shift; $tools/$p/bin/python "$@"; }
got() { test -e /tmp/t/itsdangerous; rm -rf /tmp/t; }
get="install --quiet --no-deps --target /tmp/t itsdangerous"
"#;

fn script(case: &Case) -> String {
    format!("{PRELUDE}\n{}", case.script)
}

fn dropcloth(image: &Layered, network: &str, case: &Case) -> Output {
    let mirror = support::mirror();
    // The other modes have resolvers of their own.
    let resolver = (network == "host").then(|| image.path("resolv.conf"));
    resolver.iter().for_each(|file| std::fs::write(file, "nameserver 127.0.0.1\n").unwrap());
    Command::new(support::binary())
        .args(["run", "--mode", "discard", "--offline", "--network", network])
        .args(if network == "host" { &[][..] } else { &["--escape", "warn"] })
        .args(["--report", &image.path("report.json")])
        .args(resolver.iter().flat_map(|file| ["--resolver", file]))
        .args(["--scratch", &image.path("scratch"), "--mirror"])
        .arg(mirror)
        .args([&image.path("root"), "--", "sh", "-c", &script(case)])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", image.path("scratch"))
        // What a build machine has in its environment must not reach the step.
        .env("PIP_INDEX_URL", "https://host.example/simple")
        .env("UV_INDEX", "https://host.example/simple")
        .env("PDM_PYPI_URL", "https://host.example/simple")
        .output()
        .unwrap()
}

/// The hosts in the report of escapes.
fn reported(image: &Layered) -> BTreeSet<String> {
    let report: Value = serde_json::from_slice(&std::fs::read(image.path("report.json")).unwrap()).unwrap();
    let escapes = report["escapes"].as_array().unwrap();
    escapes.iter().map(|escape| escape["host"].as_str().unwrap().to_owned()).collect()
}

/// Those of what the sentinel has seen.
fn hosts(seen: &[String]) -> BTreeSet<String> {
    seen.iter().filter_map(|seen| Some(seen.rsplit_once(':')?.0.to_owned())).collect()
}

/// By plain chroot: the control that a case can be seen at all.
fn chroot(image: &Layered, case: &Case) -> Output {
    std::fs::write(PathBuf::from(image.path("root")).join("etc/resolv.conf"), "nameserver 127.0.0.1\n").unwrap();
    Command::new("timeout")
        .args(["60", "/usr/sbin/chroot", &image.path("root"), "sh", "-c", &script(case)])
        .env_clear()
        .envs([("HOME", "/root"), ("PATH", "/usr/bin:/bin"), ("PIP_RETRIES", "0"), ("UV_HTTP_RETRIES", "0")])
        .output()
        .unwrap()
}

fn told(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&text).into_owned()
}

/// Runs the cases one after the other in one network; `control` is the case of which plain chroot must be seen to escape.
fn hold(cases: &[Case], control: &str) {
    needs_root!();
    let root = support::made(&["make-tools"], "roots/tools");
    support::mirror();
    let only = std::env::var("DROPCLOTH_ESCAPE_CASE").ok();
    let mut failed = Vec::new();
    Sentinel::inside(|sentinel| {
        for case in cases.iter().filter(|case| only.as_deref().is_none_or(|name| case.name == name)) {
            let image = Layered::over(&root, case.files);
            let output = dropcloth(&image, "host", case);
            let seen = sentinel.take();
            let success = output.status.success();
            let as_expected = match case.held {
                Installs => success && seen.is_empty(),
                FailsClosed => !success && seen.is_empty(),
                ByNetwork => !seen.is_empty(),
            };
            println!("{}: {:?}, exit {:?}, seen {seen:?}", case.name, case.held, output.status.code());
            if !as_expected {
                failed.push(format!("{} ({:?}): seen {seen:?}\n{}", case.name, case.held, told(&output)));
            }
            // The long form tries both modes, and on what configuration holds, too; tests/network.rs has more of `mirrors`.
            let networks: &[&str] = match (std::env::var_os("DROPCLOTH_LONG"), case.held) {
                (Some(_), _) => &["none", "mirrors"],
                (None, ByNetwork) => &["none"],
                (None, _) => &[],
            };
            for network in networks {
                let output = dropcloth(&image, network, case);
                let passed = sentinel.take();
                let reported = reported(&image);
                println!("{} with --network {network}: reported {reported:?}", case.name);
                if !passed.is_empty() || reported != hosts(&seen) {
                    failed.push(format!(
                            "{} with --network {network}: passed {passed:?}, reported {reported:?}, by the host's network {seen:?}\n{}",
                            case.name,
                            told(&output)
                        ));
                }
            }
            if case.name == control {
                let output = chroot(&image, case);
                let seen = sentinel.take();
                if seen.is_empty() {
                    failed.push(format!(
                        "{} by chroot is not seen: the case proves nothing\n{}",
                        case.name,
                        told(&output)
                    ));
                }
            }
        }
    });
    assert!(failed.is_empty(), "{} cases:\n{}", failed.len(), failed.join("\n----\n"));
}

const CORP: &str = "[global]\nindex-url = https://corp.example/simple\n";
const CORP_INSTALL: &str = "[install]\nindex-url = https://corp.example/simple\n";
const EACH: &str = "for p in pip20 pip22 pip24 pip26; do python $p -m pip $get; got; done";
const EXTRA: &str =
    "[global]\nextra-index-url = https://pypi.org/simple\n[install]\nextra-index-url = https://corp.example/simple\n";
const NEWER: &str = "for p in pip22 pip24 pip26; do python $p -m pip install --quiet --no-deps --target /tmp/t -r /root/r.txt; got; done";

#[rustfmt::skip]
const PIP: &[Case] = &[
    case("S1", &[], EACH, Installs),
    case("S2", &[("root/.config/pip/pip.conf", CORP)], EACH, Installs),
    case("S3", &[("etc/pip.conf", EXTRA)], EACH, Installs),
    case("S4", &[("etc/pip.conf", CORP_INSTALL), ("etc/xdg/pip/pip.conf", CORP_INSTALL)], EACH, Installs),
    case("S6", &[], "for p in pip20 pip22 pip24 pip26; do PIP_INDEX_URL=https://corp.example/simple python $p -m pip $get; got; done", Installs),
    case("S7", &[("etc/other.conf", CORP)], "for p in pip20 pip22 pip24 pip26; do PIP_CONFIG_FILE=/etc/other.conf python $p -m pip $get; got; done", Installs),
    case("S8", &[("srv/cfg/pip/pip.conf", CORP_INSTALL)], "export XDG_CONFIG_HOME=/srv/cfg; for p in pip20 pip22 pip24 pip26; do python $p -m pip $get; got; done", Installs),
    case("S9", &[("srv/cfg/pip/pip.conf", CORP_INSTALL)], "export XDG_CONFIG_DIRS=/srv/cfg; for p in pip20 pip22 pip24 pip26; do python $p -m pip $get; got; done", Installs),
    case("S10", &[("home/other/.config/pip/pip.conf", EXTRA), ("home/other/.pip/pip.conf", CORP_INSTALL), ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nother:x:1000:1000::/home/other:/bin/sh\n")],
        "for home in /home/other /nowhere; do for p in pip20 pip22 pip24 pip26; do HOME=$home python $p -m pip $get; got; done; done", Installs),
    case("S10-env", &[("home/other/.config/pip/pip.conf", EXTRA), ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nother:x:1000:1000::/home/other:/bin/sh\n")],
        "for p in pip20 pip22 pip24 pip26; do env -i HOME=/home/other PATH=/usr/bin:/bin $tools/$p/bin/python -m pip $get; got; done", Installs),
    case("S11", &[("root/r.txt", "--index-url https://corp.example/simple\nitsdangerous\n")], NEWER, Installs),
    case("S12", &[("root/r.txt", "--extra-index-url https://corp.example/simple\nitsdangerous\n")], NEWER, Installs),
    case("S12b", &[("root/r.txt", "--find-links https://corp.example/links\nitsdangerous\n")], NEWER, ByNetwork),
    case("S13", &[("root/r.txt", "itsdangerous @ https://files.example/itsdangerous-2.2.0-py3-none-any.whl\n")], NEWER, ByNetwork),
    case("S14", &[("root/.config/pip/pip.conf", CORP)], "for p in pip20 pip22 pip24 pip26; do python $p -m pip --isolated $get; got; done", Installs),
    case("S15", &[("etc/pip.conf", "[global]\nfind-links = https://evil.example/links\n")], EACH, Installs),
    case("S20", &[("etc/pip.conf", EXTRA)], "for p in pip20 pip22 pip24 pip26; do PIP_EXTRA_INDEX_URL= python $p -m pip $get; got; done", Installs),
    case("S24", &[], "for p in pip20 pip22 pip24 pip26; do PIP_CONFIG_FILE=/dev/null python $p -m pip --isolated $get; got; done", ByNetwork),
    case("S25", &[("etc/other.conf", CORP)], "for p in pip20 pip22 pip24 pip26; do PIP_CONFIG_FILE=/etc/missing.conf python $p -m pip --isolated $get; got; done", Installs),
    case("B10", &[("opt/tools/pip20/pip.conf", EXTRA), ("opt/tools/pip22/pip.conf", CORP_INSTALL), ("opt/tools/pip24/pip.conf", CORP), ("opt/tools/pip26/pip.conf", EXTRA)], EACH, Installs),
    case("W2", &[("etc/pip.conf", "[download]\nindex-url = https://corp.example/simple\n[wheel]\nindex-url = https://corp.example/simple\n[index]\nindex-url = https://corp.example/simple\n[lock]\nindex-url = https://corp.example/simple\n")],
        "for p in pip20 pip22 pip24 pip26; do python $p -m pip download --quiet --no-deps -d /tmp/d itsdangerous; python $p -m pip wheel --quiet --no-deps -w /tmp/w itsdangerous; ls /tmp/d/*.whl /tmp/w/*.whl; rm -r /tmp/d /tmp/w; done
         python pip26 -m pip index versions itsdangerous; cd /tmp; python pip26 -m pip lock --quiet itsdangerous -o /tmp/pylock.toml; grep -q itsdangerous /tmp/pylock.toml", Installs),
    case("E1", &[], "python3 -m venv --upgrade-deps /tmp/v; /tmp/v/bin/pip --version", Installs),
    case("unknown", &[], "! python pip26 -m pip install no-such-package; ! python pip20 -m pip install no-such-package; exit 7", FailsClosed),
];

const PROJECT: (&str, &str) = (
    "root/p/pyproject.toml",
    "[build-system]\nrequires = ['setuptools>=61', 'wheel']\nbuild-backend = 'setuptools.build_meta'\n[project]\nname = 'mine'\nversion = '1'\nrequires-python = '>=3.11'\ndependencies = ['itsdangerous']\n[tool.setuptools]\npy-modules = []\n",
);

#[rustfmt::skip]
const BUILDS: &[Case] = &[
    case("B1", &[("etc/pip.conf", EXTRA)], "for p in pip22 pip24 pip26; do python $p -m pip install --quiet --no-deps --target /tmp/t tabulate; test -e /tmp/t/tabulate; rm -rf /tmp/t; done", Installs),
    case("B4", &[("root/.config/pip/pip.conf", CORP), PROJECT], "for p in pip22 pip24 pip26; do python $p -m pip install --quiet --target /tmp/t /root/p; got; done", Installs),
    case("B7", &[("etc/pip.conf", EXTRA), PROJECT], "python build -m build --outdir /tmp/o /root/p; ls /tmp/o/*.whl", Installs),
    case("B8", &[("root/.config/uv/uv.toml", "[[index]]\nurl = 'https://corp.example/simple'\n"), PROJECT], "export PATH=$tools/uv/bin:$PATH; python build -m build --installer uv --outdir /tmp/o /root/p; ls /tmp/o/*.whl", Installs),
    case("V1", &[("etc/pip.conf", EXTRA)], "$tools/virtualenv/bin/virtualenv --quiet /tmp/v; /tmp/v/bin/pip $get; got; sleep 1", Installs),
    case("V2", &[], "$tools/virtualenv/bin/virtualenv --quiet --download /tmp/v; /tmp/v/bin/pip --version", Installs),
    case("H1", &[("root/.config/pip/pip.conf", EXTRA), PROJECT], "cd /root/p; $tools/hatch/bin/hatch --data-dir /tmp/h --cache-dir /tmp/c run python -c 'import itsdangerous'", Installs),
    case("X2", &[("etc/pip.conf", EXTRA)], "export PIPX_HOME=/tmp/px PIPX_BIN_DIR=/tmp/px/bin PIPX_DEFAULT_BACKEND=pip; $tools/pipx/bin/pipx install flask; /tmp/px/bin/flask --version", Installs),
    case("X1", &[("etc/pip.conf", EXTRA)], "export PATH=$tools/uv/bin:$PATH PIPX_HOME=/tmp/px PIPX_BIN_DIR=/tmp/px/bin; $tools/pipx/bin/pipx install flask; /tmp/px/bin/flask --version", Installs),
];

const SETUP: (&str, &str) = (
    "root/s/setup.py",
    "from setuptools import setup\nsetup(name='mine', version='1', install_requires=['itsdangerous'], py_modules=[])\n",
);
const SETUP_REQUIRES: (&str, &str) = (
    "root/s/setup.py",
    "from setuptools import setup\nsetup(name='mine', version='1', setup_requires=['itsdangerous'], py_modules=[])\n",
);
const EASY: &str = "[easy_install]\nindex_url = https://corp.example/simple\n";

#[rustfmt::skip]
const DISTUTILS: &[Case] = &[
    case("EI1", &[SETUP, ("root/.pydistutils.cfg", EASY)], "cd /root/s; for p in setuptools41 setuptools65; do python $p setup.py --quiet install; python $p -c 'import itsdangerous'; done", Installs),
    case("EI3", &[SETUP, ("usr/lib/python3.11/distutils/distutils.cfg", EASY)], "cd /root/s; env -i HOME=/nowhere PATH=/usr/bin:/bin $tools/setuptools41/bin/python setup.py --quiet install; python setuptools41 -c 'import itsdangerous'", Installs),
    case("EI3b", &[SETUP], "cd /root/s; env -i HOME=/nowhere PATH=/usr/bin:/bin $tools/setuptools65/bin/python setup.py --quiet install", ByNetwork),
    case("EI5", &[SETUP_REQUIRES, ("root/.pydistutils.cfg", EASY)], "cd /root/s; for p in setuptools41 setuptools65 setuptools84; do python $p setup.py --quiet --version; ls -d .eggs/itsdangerous*; rm -r .eggs; done", Installs),
    case("EI6", &[SETUP_REQUIRES, ("root/s/setup.cfg", EASY)], "cd /root/s; for p in setuptools65 setuptools84; do python $p setup.py --quiet --version; ls -d .eggs/itsdangerous*; rm -r .eggs; done", Installs),
    case("EI7", &[SETUP, ("root/s/setup.cfg", EASY)], "cd /root/s; python setuptools41 setup.py --quiet install", ByNetwork),
    case("EI7b", &[SETUP, ("root/s/setup.cfg", EASY)], "cd /root/s; python setuptools65 setup.py --quiet install; python setuptools65 -c 'import itsdangerous'", Installs),
];

const UV_INDEX: &str = "[[index]]\nurl = 'https://corp.example/simple'\n";
const UV: &str = "uv=$tools/uv/bin/uv; $uv pip install --quiet --no-deps --python $tools/pip26/bin/python --target /tmp/t itsdangerous; got";
const UV_LOCK: &str = "version = 1\nrequires-python = \">=3.11\"\n[[package]]\nname = \"itsdangerous\"\nversion = \"2.2.0\"\nsource = { registry = \"https://pypi.org/simple\" }\nwheels = [{ url = \"https://files.pythonhosted.org/packages/itsdangerous-2.2.0-py3-none-any.whl\", hash = \"sha256:c6242fc49e35958c8b15141343aa660db5fc54d4f13a1db01a3f5891b98700ef\" }]\n[[package]]\nname = \"mine\"\nversion = \"1\"\nsource = { virtual = \".\" }\ndependencies = [{ name = \"itsdangerous\" }]\n[package.metadata]\nrequires-dist = [{ name = \"itsdangerous\" }]\n";
const MINE: &str =
    "[project]\nname = 'mine'\nversion = '1'\nrequires-python = '>=3.11'\ndependencies = ['itsdangerous']\n";

#[rustfmt::skip]
const UVS: &[Case] = &[
    case("U1", &[("etc/pip.conf", CORP)], UV, Installs),
    case("U2", &[("root/.config/uv/uv.toml", UV_INDEX)], UV, Installs),
    case("U2d", &[("etc/uv/uv.toml", "[[index]]\nurl = 'https://corp.example/simple'\ndefault = true\n"), ("etc/xdg/uv/uv.toml", UV_INDEX)], UV, Installs),
    case("U5", &[("root/p/pyproject.toml", "[project]\nname = 'mine'\nversion = '1'\nrequires-python = '>=3.11'\ndependencies = ['itsdangerous']\n[[tool.uv.index]]\nurl = 'https://corp.example/simple'\n")],
        "cd /root/p; $tools/uv/bin/uv sync --quiet --python $tools/pip26/bin/python; .venv/bin/python -c 'import itsdangerous'", Installs),
    case("U8", &[("root/p/pyproject.toml", MINE)], "cd /root/p; $tools/uv/bin/uv sync --quiet --python $tools/pip26/bin/python; .venv/bin/python -c 'import itsdangerous'", Installs),
    case("U13", &[("root/p/pyproject.toml", MINE), ("root/p/uv.lock", UV_LOCK)], "cd /root/p; $tools/uv/bin/uv sync --quiet --frozen --python $tools/pip26/bin/python", FailsClosed),
    case("U15", &[], "$tools/uv/bin/uv venv --quiet --python 3.13 /tmp/v", FailsClosed),
    case("U16", &[("root/.config/uv/uv.toml", UV_INDEX)], "$tools/uv/bin/uv pip install --quiet --no-deps --python $tools/pip26/bin/python --target /tmp/t tabulate docopt; test -e /tmp/t/tabulate", Installs),
    case("U18", &[("root/r.txt", "--index-url https://corp.example/simple\nitsdangerous\n")], "$tools/uv/bin/uv pip install --quiet --no-deps --python $tools/pip26/bin/python --target /tmp/t -r /root/r.txt; got", Installs),
    case("U-unknown", &[], "$tools/uv/bin/uv pip install --python $tools/pip26/bin/python --target /tmp/t no-such-package", FailsClosed),
];

const POETRY: &str = "[tool.poetry]\nname = 'mine'\nversion = '1'\ndescription = ''\nauthors = []\npackage-mode = false\n[tool.poetry.dependencies]\npython = '^3.11'\nitsdangerous = '*'\n";

#[rustfmt::skip]
const PROJECTS: &[Case] = &[
    case("D2", &[("root/.config/pdm/config.toml", "[pypi]\nurl = 'https://corp.example/simple'\n"), ("root/p/pyproject.toml", MINE)],
        "cd /root/p; $tools/pdm/bin/pdm use -q -f $tools/pip26/bin/python; $tools/pdm/bin/pdm add -q --no-sync itsdangerous; grep -q itsdangerous pdm.lock", Installs),
    case("D4", &[("root/p/pyproject.toml", "[project]\nname = 'mine'\nversion = '1'\nrequires-python = '>=3.11'\ndependencies = ['itsdangerous']\n[[tool.pdm.source]]\nname = 'corp'\nurl = 'https://corp.example/simple'\n")],
        "cd /root/p; $tools/pdm/bin/pdm use -q -f $tools/pip26/bin/python; $tools/pdm/bin/pdm lock -q", ByNetwork),
    case("P1", &[("root/p/pyproject.toml", POETRY)], "cd /root/p; $tools/poetry/bin/poetry lock -q", ByNetwork),
    case("P5", &[("root/p/pyproject.toml", POETRY)], "cd /root/p; export POETRY_VIRTUALENVS_IN_PROJECT=true; $tools/poetry-mirror/bin/poetry lock -q; grep -q itsdangerous poetry.lock; $tools/poetry-mirror/bin/poetry install -q; .venv/bin/python -c 'import itsdangerous'", Installs),
];

mod as_root {
    use super::*;

    #[test]
    fn pip_of_every_age_asks_the_mirror_only() {
        hold(PIP, "S1");
    }

    #[test]
    fn builds_and_what_calls_pip_ask_the_mirror_only() {
        hold(BUILDS, "B7");
    }

    #[test]
    fn setuptools_of_every_age_asks_the_mirror_only() {
        hold(DISTUTILS, "EI1");
    }

    #[test]
    fn uv_asks_the_mirror_only() {
        hold(UVS, "U1");
    }

    #[test]
    fn pdm_and_poetry_ask_the_mirror_as_far_as_they_can_be_told() {
        hold(PROJECTS, "P5");
    }
}
