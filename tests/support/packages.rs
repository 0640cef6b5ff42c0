//! Small packages made on the spot, and trees of them that pip and uv take as an index.
#![allow(dead_code, missing_docs, reason = "each test target uses a part of this")]

use std::io::Write;
use std::path::Path;

use sha2::{Digest, Sha256};

/// A package without any code but one module that holds its version.
#[derive(Clone)]
pub struct Package {
    name: String,
    version: String,
    requires: Vec<String>,
    /// Requirements of its build; none: it is a wheel.
    build: Option<Vec<String>>,
}

impl Package {
    pub fn wheel(name: &str, version: &str) -> Package {
        Package { name: name.to_owned(), version: version.to_owned(), requires: Vec::new(), build: None }
    }

    pub fn sdist(name: &str, version: &str) -> Package {
        Package { build: Some(Vec::new()), ..Package::wheel(name, version) }
    }

    pub fn needs(mut self, requirement: &str) -> Package {
        self.requires.push(requirement.to_owned());
        self
    }

    pub fn built_with(mut self, requirement: &str) -> Package {
        self.build.get_or_insert_default().push(requirement.to_owned());
        self
    }

    fn stem(&self) -> String {
        format!("{}-{}", self.name.replace('-', "_"), self.version)
    }

    pub fn file_name(&self) -> String {
        match self.build {
            None => format!("{}-py3-none-any.whl", self.stem()),
            Some(_) => format!("{}.tar.gz", self.stem()),
        }
    }

    fn metadata(&self) -> String {
        let requires: String = self.requires.iter().map(|r| format!("Requires-Dist: {r}\n")).collect();
        format!("Metadata-Version: 2.1\nName: {}\nVersion: {}\n{requires}", self.name, self.version)
    }

    pub fn bytes(&self) -> Vec<u8> {
        let module = format!("{}.py", self.name.replace('-', "_"));
        let code = format!("VERSION = {:?}\n", self.version);
        match &self.build {
            None => {
                let info = format!("{}.dist-info", self.stem());
                let wheel = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n";
                zipped(&[
                    (module.clone(), code),
                    (format!("{info}/METADATA"), self.metadata()),
                    (format!("{info}/WHEEL"), wheel.to_owned()),
                    (
                        format!("{info}/RECORD"),
                        format!("{module},,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n"),
                    ),
                ])
            }
            Some(build) => {
                let list: Vec<String> = build.iter().map(|r| format!("{r:?}")).collect();
                let project = format!("[build-system]\nrequires = [{}]\n", list.join(", "));
                tarred(&[
                    (format!("{}/PKG-INFO", self.stem()), self.metadata()),
                    (format!("{}/pyproject.toml", self.stem()), project),
                    (format!("{}/{module}", self.stem()), code),
                ])
            }
        }
    }

    pub fn sha256(&self) -> String {
        Sha256::digest(self.bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

fn zipped(files: &[(String, String)]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, text) in files {
        let options = zip::write::SimpleFileOptions::default().last_modified_time(zip::DateTime::default());
        writer.start_file(name.as_str(), options).unwrap();
        writer.write_all(text.as_bytes()).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

fn tarred(files: &[(String, String)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    for (name, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append_data(&mut header, name, text.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap().finish().unwrap()
}

/// A PEP 503 tree with `links.html`.
pub fn tree(directory: &Path, packages: &[Package]) {
    let mut all = String::new();
    let mut pages = std::collections::BTreeMap::<&str, String>::new();
    for package in packages {
        let folder = directory.join(&package.name);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(package.file_name()), package.bytes()).unwrap();
        let link = |href: &str| format!("<a href=\"{href}#sha256={}\">{}</a>\n", package.sha256(), package.file_name());
        pages.entry(&package.name).or_default().push_str(&link(&package.file_name()));
        all.push_str(&link(&format!("{}/{}", package.name, package.file_name())));
    }
    for (name, links) in pages {
        std::fs::write(directory.join(name).join("index.html"), format!("<!DOCTYPE html><body>\n{links}</body>"))
            .unwrap();
    }
    std::fs::write(directory.join("links.html"), format!("<!DOCTYPE html><body>\n{all}</body>")).unwrap();
}
