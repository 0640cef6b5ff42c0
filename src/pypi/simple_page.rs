//! Pages of a simple index: HTML (PEP 503, 592, 658, 714) and JSON (PEP 691), read and written.

use std::fmt::Write;

use html5gum::{Token, Tokenizer};
use serde::{Deserialize, Serialize};
use url::Url;

use super::distribution::normalized;

/// A file that a page links.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileLink {
    /// File name.
    pub filename: String,
    /// Absolute URL, without fragment.
    pub url: String,
    /// Algorithm and hex digest.
    pub hash: Option<(String, String)>,
    /// `Requires-Python` of its metadata.
    pub requires_python: Option<String>,
    /// Yanked, and why.
    pub yanked: Option<String>,
    /// Its core metadata stands beside it (`URL.metadata`), with hash where the page gives one.
    pub metadata: Option<Option<(String, String)>>,
    /// Bytes.
    pub size: Option<u64>,
    /// When it was uploaded, RFC 3339.
    pub upload_time: Option<String>,
}

/// Reads an HTML page that was found at `base`.
pub fn parse_html(text: &str, base: &Url) -> Vec<FileLink> {
    let mut base = base.clone();
    let mut links: Vec<FileLink> = Vec::new();
    // The text of a link names its file where the URL does not.
    let mut open: Option<(FileLink, String)> = None;
    for token in Tokenizer::new(text) {
        let Ok(token) = token;
        match token {
            Token::StartTag(tag) => {
                let attribute =
                    |name: &[u8]| tag.attributes.get(name).map(|value| String::from_utf8_lossy(value).into_owned());
                match tag.name.as_slice() {
                    b"base" => {
                        if let Some(url) = attribute(b"href").and_then(|href| base.join(&href).ok()) {
                            base = url;
                        }
                    }
                    b"a" => open = link(&attribute, &base).map(|link| (link, String::new())),
                    _ => {}
                }
            }
            Token::String(text) => {
                if let Some((_, shown)) = &mut open {
                    shown.push_str(&String::from_utf8_lossy(&text));
                }
            }
            Token::EndTag(tag) if tag.name.as_slice() == b"a" => {
                if let Some((mut link, shown)) = open.take() {
                    if link.filename.is_empty() {
                        link.filename = shown.trim().to_owned();
                    }
                    links.push(link);
                }
            }
            _ => {}
        }
    }
    links
}

fn link(attribute: &dyn Fn(&[u8]) -> Option<String>, base: &Url) -> Option<FileLink> {
    let mut url = base.join(attribute(b"href")?.trim()).ok()?;
    let hash = url.fragment().and_then(fragment_hash);
    url.set_fragment(None);
    // PEP 714: the old name counts where the new one is missing.
    let metadata = attribute(b"data-core-metadata").or_else(|| attribute(b"data-dist-info-metadata"));
    Some(FileLink {
        filename: last_segment(&url),
        hash,
        requires_python: attribute(b"data-requires-python").filter(|v| !v.trim().is_empty()),
        yanked: attribute(b"data-yanked"),
        metadata: metadata.filter(|value| value != "false").map(|value| fragment_hash(&value)),
        size: None,
        upload_time: None,
        url: url.into(),
    })
}

/// `sha256=…`; a fragment may hold more, joined by `&`.
fn fragment_hash(fragment: &str) -> Option<(String, String)> {
    let hex = |value: &str| value.len() >= 32 && value.bytes().all(|b| b.is_ascii_hexdigit());
    let pairs = fragment.split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter(|(_, value)| hex(value)).map(|(name, value)| (name.to_lowercase(), value.to_lowercase())).next()
}

fn last_segment(url: &Url) -> String {
    let last = url.path().rsplit('/').next().unwrap_or_default();
    percent_encoding::percent_decode_str(last).decode_utf8_lossy().into_owned()
}

#[derive(Deserialize)]
struct JsonPage {
    files: Vec<JsonFile>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct JsonFile {
    filename: String,
    url: String,
    #[serde(default)]
    hashes: std::collections::BTreeMap<String, String>,
    requires_python: Option<String>,
    #[serde(default)]
    yanked: serde_json::Value,
    #[serde(default)]
    core_metadata: serde_json::Value,
    size: Option<u64>,
    upload_time: Option<String>,
}

/// Reads a JSON page that was found at `base`.
///
/// # Errors
/// What the JSON parser says.
pub fn parse_json(text: &str, base: &Url) -> Result<Vec<FileLink>, String> {
    let page: JsonPage = serde_json::from_str(text).map_err(|e| e.to_string())?;
    let link = |file: JsonFile| {
        let url = base.join(&file.url).ok()?;
        Some(FileLink {
            filename: file.filename,
            url: url.into(),
            hash: best_hash(&file.hashes),
            requires_python: file.requires_python,
            yanked: match file.yanked {
                serde_json::Value::String(why) => Some(why),
                serde_json::Value::Bool(true) => Some(String::new()),
                _ => None,
            },
            metadata: match file.core_metadata {
                serde_json::Value::Bool(true) => Some(None),
                serde_json::Value::Object(hashes) => {
                    let text = |v: &serde_json::Value| v.as_str().unwrap_or_default().to_lowercase();
                    Some(hashes.get("sha256").map(|v| ("sha256".to_owned(), text(v))))
                }
                _ => None,
            },
            size: file.size,
            upload_time: file.upload_time,
        })
    };
    Ok(page.files.into_iter().filter_map(link).collect())
}

fn best_hash(hashes: &std::collections::BTreeMap<String, String>) -> Option<(String, String)> {
    let (name, value) = hashes.get_key_value("sha256").or_else(|| hashes.iter().next())?;
    Some((name.clone(), value.to_lowercase()))
}

/// Characters that a relative link escapes: all but what every server and file system leaves alone.
const ESCAPED: &percent_encoding::AsciiSet =
    &percent_encoding::NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/').remove(b'!');

/// One link of an HTML page; `href` is relative and not escaped yet.
fn anchor(out: &mut String, link: &FileLink, href: &str) {
    let _ = write!(out, "    <a href=\"{}", percent_encoding::utf8_percent_encode(href, ESCAPED));
    if let Some((algorithm, digest)) = &link.hash {
        let _ = write!(out, "#{algorithm}={digest}");
    }
    out.push('"');
    if let Some(requires) = &link.requires_python {
        let _ = write!(out, " data-requires-python=\"{}\"", escaped(requires));
    }
    if let Some(hash) = &link.metadata {
        let value = hash.as_ref().map_or_else(|| "true".to_owned(), |(name, digest)| format!("{name}={digest}"));
        // Not by the older name data-dist-info-metadata, which PEP 714 allows beside it: pip 22.3 to 23.1 read only that one, and
        // then refuse a project whose metadata spell its name in another way than the requirement (pip issue 12038).
        let _ = write!(out, " data-core-metadata=\"{value}\"");
    }
    if let Some(why) = &link.yanked {
        let _ = write!(out, " data-yanked=\"{}\"", escaped(why));
    }
    let _ = writeln!(out, ">{}</a><br>", escaped(&link.filename));
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn page(title: &str, body: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html>\n  <head>\n    <meta name=\"pypi:repository-version\" content=\"1.1\">\n    <title>{}</title>\n  </head>\n  <body>\n{body}  </body>\n</html>\n",
        escaped(title)
    )
}

/// A project's page; `href` gives each file's place relative to it.
pub fn project_page(project: &str, links: &[FileLink], href: &dyn Fn(&FileLink) -> String) -> String {
    let mut body = String::new();
    links.iter().for_each(|link| anchor(&mut body, link, &href(link)));
    page(&format!("Links for {project}"), &body)
}

/// The flat page for pip's `find-links`: every file of the mirror, with its place relative to the page.
pub fn links_page<'a>(links: impl Iterator<Item = (&'a FileLink, String)>) -> String {
    let mut body = String::new();
    links.for_each(|(link, href)| anchor(&mut body, link, &href));
    page("All files", &body)
}

/// The page of all projects.
pub fn root_page<'a>(projects: impl Iterator<Item = &'a str>) -> String {
    let mut body = String::new();
    for project in projects {
        let name = normalized(project);
        let _ = writeln!(body, "    <a href=\"{name}/\">{}</a><br>", escaped(project));
    }
    page("Simple index", &body)
}

/// A project's page as PEP 691 JSON. Not with the older key `dist-info-metadata`: some pips misread it there.
pub fn project_json(project: &str, links: &[FileLink], href: &dyn Fn(&FileLink) -> String) -> String {
    let file = |link: &FileLink| {
        let url = percent_encoding::utf8_percent_encode(&href(link), ESCAPED).to_string();
        let mut hashes = serde_json::Map::new();
        hashes.extend(link.hash.iter().map(|(name, digest)| (name.clone(), digest.clone().into())));
        let mut file = serde_json::json!({ "filename": link.filename, "url": url, "hashes": hashes });
        let mut add = |key: &str, value: Option<serde_json::Value>| {
            if let Some(value) = value {
                file[key] = value;
            }
        };
        add("requires-python", link.requires_python.clone().map(Into::into));
        add("yanked", link.yanked.clone().map(|why| if why.is_empty() { true.into() } else { why.into() }));
        add(
            "core-metadata",
            link.metadata.as_ref().map(|hash| match hash {
                Some((name, digest)) => serde_json::json!({ name: digest }),
                None => true.into(),
            }),
        );
        add("size", link.size.map(Into::into));
        add("upload-time", link.upload_time.clone().map(Into::into));
        file
    };
    let page = serde_json::json!({
        "meta": { "api-version": "1.1" },
        "name": normalized(project),
        "files": links.iter().map(file).collect::<Vec<_>>(),
        "versions": versions(project, links),
    });
    format!("{page}\n")
}

fn versions(project: &str, links: &[FileLink]) -> Vec<String> {
    let parsed = links.iter().filter_map(|l| Some(super::distribution::parse(&l.filename, Some(project))?.version));
    let set: std::collections::BTreeSet<_> = parsed.collect();
    set.into_iter().map(|v| v.to_string()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn base() -> Url {
        Url::parse("http://mirror/simple/flask/").unwrap()
    }

    #[test]
    fn a_page_of_the_official_index_is_read_with_all_attributes() {
        let sha = "a".repeat(64);
        let text = format!(
            "<!DOCTYPE html><html><head><base href='../../files/'></head><body><h1>x</h1>
            <a href=\"Flask-1.0-py3-none-any.whl#sha256={sha}\" data-requires-python=\"&gt;=3.8\" data-core-metadata=\"sha256={sha}\">Flask</a>
            <a href='https://other/a%2Bb-1.tar.gz' data-yanked=\"bad &amp; old\" data-dist-info-metadata=true >b</a>
            <A HREF=\"/abs/c-1.zip#md5={}\">c</a></body></html>",
            "b".repeat(32)
        );
        let links = parse_html(&text, &base());
        assert_eq!(links[0].url, "http://mirror/files/Flask-1.0-py3-none-any.whl");
        assert_eq!(links[0].requires_python.as_deref(), Some(">=3.8"));
        assert_eq!(links[0].hash, Some(("sha256".to_owned(), sha.clone())));
        assert_eq!(links[0].metadata, Some(Some(("sha256".to_owned(), sha))));
        assert_eq!((links[1].filename.as_str(), links[1].yanked.as_deref()), ("a+b-1.tar.gz", Some("bad & old")));
        assert_eq!(links[1].metadata, Some(None));
        assert_eq!((links[2].url.as_str(), links[2].hash.is_some()), ("http://mirror/abs/c-1.zip", true));
    }

    fn any_link() -> impl Strategy<Value = FileLink> {
        let text = "[ -~]{1,20}";
        let hash = "[0-9a-f]{64}".prop_map(|digest| ("sha256".to_owned(), digest));
        (
            "[a-zA-Z0-9][a-zA-Z0-9._+!~-]{1,20}",
            proptest::option::of(hash.clone()),
            proptest::option::of("[<>=!~0-9., ]{1,12}".prop_filter("blank is none", |t: &String| !t.trim().is_empty())),
            proptest::option::of(text),
            proptest::option::of(proptest::option::of(hash)),
            proptest::option::of(0_u64..1 << 40),
        )
            .prop_map(|(filename, hash, requires_python, yanked, metadata, size)| FileLink {
                url: base()
                    .join(&percent_encoding::utf8_percent_encode(&filename, ESCAPED).to_string())
                    .unwrap()
                    .into(),
                filename,
                hash,
                requires_python,
                yanked,
                metadata,
                size,
                upload_time: None,
            })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn what_is_written_is_read_back(links in proptest::collection::vec(any_link(), 0..5)) {
            let href = |link: &FileLink| link.filename.clone();
            let read = parse_html(&project_page("flask", &links, &href), &base());
            let without_size: Vec<FileLink> = links.iter().map(|l| FileLink { size: None, ..l.clone() }).collect();
            prop_assert_eq!(read, without_size);
            let json = parse_json(&project_json("flask", &links, &href), &base()).unwrap();
            prop_assert_eq!(json, links);
        }
    }
}
