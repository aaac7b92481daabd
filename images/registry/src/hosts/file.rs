//! The grammar of `hosts.toml`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use reqwest::Url;
use reqwest::header::HeaderMap;
use serde::Deserialize;
use toml::Spanned;

use super::{Capabilities, Endpoint, HeaderTable, HostsError, TlsFiles, base_url, duration, header_line};

pub(super) struct Settings {
    pub(super) mirrors: Vec<Endpoint>,
    pub(super) server: Server,
}

/// The settings of the registry itself. `base` is absent when the file doesn't redefine it; `endpoint.base` then means
/// nothing.
pub(super) struct Server {
    pub(super) base: Option<Url>,
    pub(super) endpoint: Endpoint,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    server: Option<Spanned<String>>,
    #[serde(default)]
    host: BTreeMap<Spanned<String>, Host>,
    capabilities: Option<Spanned<Vec<String>>>,
    ca: Option<OneOrMany>,
    client: Option<Client>,
    skip_verify: Option<bool>,
    override_path: Option<bool>,
    header: Option<Spanned<HeaderTable>>,
    dial_timeout: Option<Spanned<String>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Host {
    capabilities: Option<Spanned<Vec<String>>>,
    ca: Option<OneOrMany>,
    client: Option<Client>,
    skip_verify: Option<bool>,
    override_path: Option<bool>,
    header: Option<Spanned<HeaderTable>>,
    dial_timeout: Option<Spanned<String>>,
}

#[derive(Clone, Deserialize)]
#[serde(untagged, expecting = "expected a text or a list of texts")]
pub(super) enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

/// `client`: a file with certificate and key, several, or pairs of both.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a file, or a list of files or of pairs [certificate, key]")]
enum Client {
    One(String),
    Many(Vec<ClientFile>),
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a file or a pair [certificate, key]")]
enum ClientFile {
    Both(String),
    Pair(Vec<String>),
}

/// What is wrong, and at which byte.
struct Wrong {
    at: usize,
    message: String,
}

pub(super) fn parse(path: &Path, text: &str) -> Result<Settings, HostsError> {
    let content = |wrong: Wrong| HostsError::Content {
        path: path.to_owned(),
        line: 1 + text.bytes().take(wrong.at).filter(|byte| *byte == b'\n').count(),
        message: wrong.message,
    };
    let file: File = toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        content(Wrong { at, message: error.message().to_owned() })
    })?;
    let directory = path.parent().unwrap_or(Path::new("."));
    settings(file, directory).map_err(content)
}

fn settings(file: File, directory: &Path) -> Result<Settings, Wrong> {
    // The parser hands tables over sorted by name; the order of the file, which is the order of trying, is in the spans.
    let mut hosts: Vec<(Spanned<String>, Host)> = file.host.into_iter().collect();
    hosts.sort_by_key(|(name, _)| name.span().start);
    let mut mirrors = Vec::with_capacity(hosts.len());
    for (name, host) in hosts {
        let at = name.span().start;
        let base =
            base_url(name.get_ref(), host.override_path == Some(true)).map_err(|message| Wrong { at, message })?;
        mirrors.push(endpoint(base, host, at, directory)?);
    }
    let at = file.server.as_ref().map_or(0, |server| server.span().start);
    let base = match &file.server {
        Some(server) if !server.get_ref().is_empty() => {
            let base = base_url(server.get_ref(), file.override_path == Some(true));
            Some(base.map_err(|message| Wrong { at, message })?)
        }
        _ => None,
    };
    let host = Host {
        capabilities: file.capabilities,
        ca: file.ca,
        client: file.client,
        skip_verify: file.skip_verify,
        override_path: file.override_path,
        header: file.header,
        dial_timeout: file.dial_timeout,
    };
    let placeholder = base.clone().map_or_else(|| Url::parse("https://unset.invalid/v2"), Ok);
    let placeholder = placeholder.expect("the constant is a URL");
    let endpoint = endpoint(placeholder, host, at, directory)?;
    Ok(Settings { mirrors, server: Server { base, endpoint } })
}

fn endpoint(base: Url, host: Host, at: usize, directory: &Path) -> Result<Endpoint, Wrong> {
    let dial_timeout = match host.dial_timeout {
        None => None,
        Some(text) => {
            let at = text.span().start;
            let message = format!("{:?} is no duration such as 500ms, 10s or 2m", text.get_ref());
            Some(duration(text.get_ref()).ok_or(Wrong { at, message })?)
        }
    };
    let tls = TlsFiles {
        authorities: host.ca.map(OneOrMany::into_vec).unwrap_or_default().iter().map(|ca| directory.join(ca)).collect(),
        identities: identities(host.client, at, directory)?,
        skip_verify: host.skip_verify == Some(true),
    };
    Ok(Endpoint {
        base,
        capabilities: capabilities(host.capabilities)?,
        tls,
        header: headers(host.header)?,
        is_upstream: false,
        namespace: None,
        dial_timeout,
    })
}

fn capabilities(listed: Option<Spanned<Vec<String>>>) -> Result<Capabilities, Wrong> {
    let Some(listed) = listed else { return Ok(Capabilities { pull: true, resolve: true }) };
    let mut found = Capabilities { pull: false, resolve: false };
    for name in listed.get_ref() {
        match name.to_ascii_lowercase().as_str() {
            "pull" => found.pull = true,
            "resolve" => found.resolve = true,
            "push" | "referrers" => {}
            _ => {
                let message = format!("unknown capability {name:?}; there are pull, resolve, push and referrers");
                return Err(Wrong { at: listed.span().start, message });
            }
        }
    }
    Ok(found)
}

fn headers(table: Option<Spanned<HeaderTable>>) -> Result<HeaderMap, Wrong> {
    let mut headers = HeaderMap::new();
    let Some(table) = table else { return Ok(headers) };
    let at = table.span().start;
    for (name, values) in table.into_inner() {
        for value in values.into_vec() {
            let (name, value) = header_line(&name, &value).map_err(|message| Wrong { at, message })?;
            headers.append(name, value);
        }
    }
    Ok(headers)
}

fn identities(client: Option<Client>, at: usize, directory: &Path) -> Result<Vec<(PathBuf, Option<PathBuf>)>, Wrong> {
    let files = match client {
        None => return Ok(Vec::new()),
        Some(Client::One(file)) => vec![ClientFile::Both(file)],
        Some(Client::Many(files)) => files,
    };
    let pair = |file| match file {
        ClientFile::Both(both) => Ok((directory.join(both), None)),
        ClientFile::Pair(pair) => match pair.as_slice() {
            [certificate, key] => {
                Ok((directory.join(certificate), Some(directory.join(key)).filter(|_| !key.is_empty())))
            }
            _ => {
                let message = "client needs a file, or pairs of a certificate and a key".to_owned();
                Err(Wrong { at, message })
            }
        },
    };
    files.into_iter().map(pair).collect()
}
