//! Mirror settings: `DIR/<host>/hosts.toml`, as containerd reads them.
//!
//! The directory of a registry is `host_port_`, else `host:port`, else `_default`. Mirrors are tried in the order of the
//! file, the server last. A directory without `hosts.toml` may hold `*.crt` (authorities) and `*.cert` with `*.key`
//! (client certificates), as Docker has it.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use crate::net::is_loopback_host;

mod file;

/// Longest `hosts.toml`, in bytes: more than any list of mirrors, little enough to read before each pull.
pub const HOSTS_FILE_BYTES_MAX: u64 = 256 * 1024;
/// Most mirrors of one registry: each can cost a connect timeout.
const MIRRORS_MAX: usize = 32;

/// What an endpoint may be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Content by its digest.
    pub pull: bool,
    /// What a tag means now.
    pub resolve: bool,
}

/// The files and settings of an endpoint's TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct TlsFiles {
    /// PEM files of authorities, beside the system's.
    pub authorities: Vec<PathBuf>,
    /// PEM files of a certificate and, if it is elsewhere, its key.
    pub identities: Vec<(PathBuf, Option<PathBuf>)>,
    /// Whether the server's certificate isn't checked.
    pub skip_verify: bool,
}

/// A server that can be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The address up to and including `/v2`.
    pub base: Url,
    /// What it may be asked for.
    pub capabilities: Capabilities,
    /// How its TLS is set up.
    pub tls: TlsFiles,
    /// Sent to it, and to no host that it redirects to.
    pub header: HeaderMap,
    /// Whether it is the registry that the reference names, and no mirror.
    pub is_upstream: bool,
    /// The registry that a mirror shall speak for, in its `ns` parameter.
    pub namespace: Option<String>,
    /// How long a connection may take; `None`: the registry client's default.
    pub dial_timeout: Option<Duration>,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.base.as_str().trim_end_matches("/v2").trim_end_matches('/'))
    }
}

/// Mirror settings that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum HostsError {
    /// Can't be read.
    #[error("cannot read {path:?}: {source}")]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Longer than [`HOSTS_FILE_BYTES_MAX`].
    #[error("{path:?} has more than {HOSTS_FILE_BYTES_MAX} bytes")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// Not as `hosts.toml` must be.
    #[error("{}:{line}: {message}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// The registry's name makes no URL.
    #[error("{0:?} is no host")]
    Host(String),
    /// The program ends while the settings are read.
    #[error("interrupted while reading the settings")]
    Interrupted,
}

/// The endpoints of a registry in the order to be tried: mirrors as in the file, the server last.
pub(crate) fn endpoints(hosts_dir: Option<&Path>, registry: &str) -> Result<Vec<Endpoint>, HostsError> {
    let Some(directory) = hosts_dir.and_then(|dir| directory_of(dir, registry)) else {
        return Ok(vec![default_endpoint(registry)?]);
    };
    let path = directory.join("hosts.toml");
    let text = match std::fs::File::open(&path) {
        Ok(file) => read_limited(file, &path)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let tls = certificates_of(&directory)?;
            return Ok(vec![Endpoint { tls, ..default_endpoint(registry)? }]);
        }
        Err(source) => return Err(HostsError::Read { path, source }),
    };
    let settings = file::parse(&path, &text)?;
    let mut endpoints = settings.mirrors;
    if endpoints.len() > MIRRORS_MAX {
        let message = format!("{} hosts, more than {MIRRORS_MAX}", endpoints.len());
        return Err(HostsError::Content { path, line: 1, message });
    }
    let own = default_endpoint(registry)?;
    let server = match settings.server {
        file::Server { base: Some(base), endpoint } => Endpoint { base, ..endpoint },
        file::Server { base: None, endpoint } => Endpoint { base: own.base.clone(), ..endpoint },
    };
    // The same server listed as a host and as itself would be asked twice for what it doesn't have.
    if let Some(listed) = endpoints.iter_mut().find(|endpoint| endpoint.base == server.base) {
        listed.is_upstream = true;
    } else {
        endpoints.push(Endpoint { is_upstream: true, ..server });
    }
    for endpoint in &mut endpoints {
        if endpoint.base.host_str() != own.base.host_str() || endpoint.base.port() != own.base.port() {
            endpoint.namespace = Some(registry.to_owned());
        }
    }
    Ok(endpoints)
}

/// The first directory that exists, in containerd's order.
fn directory_of(hosts_dir: &Path, registry: &str) -> Option<PathBuf> {
    let mut names = Vec::with_capacity(3);
    if let Some((host, port)) = registry.rsplit_once(':') {
        names.push(format!("{host}_{port}_"));
    }
    names.push(registry.to_owned());
    names.push("_default".to_owned());
    names.into_iter().map(|name| hosts_dir.join(name)).find(|directory| directory.is_dir())
}

/// The registry itself without any setting.
///
/// `docker.io` is served elsewhere than it is called. A loopback host is asked over plain HTTP unless its port is that of
/// HTTPS: what containerd does for the scratch registries that live there.
fn default_endpoint(registry: &str) -> Result<Endpoint, HostsError> {
    let (host, port) = registry.rsplit_once(':').map_or((registry, ""), |(host, port)| (host, port));
    let plain = is_loopback_host(host) && !matches!(port, "" | "443");
    let address = match registry {
        "docker.io" => "https://registry-1.docker.io/v2".to_owned(),
        _ if plain => format!("http://{registry}/v2"),
        _ => format!("https://{registry}/v2"),
    };
    let base = address.parse().map_err(|_| HostsError::Host(registry.to_owned()))?;
    Ok(Endpoint {
        base,
        capabilities: Capabilities { pull: true, resolve: true },
        tls: TlsFiles::default(),
        header: HeaderMap::new(),
        is_upstream: true,
        namespace: None,
        dial_timeout: None,
    })
}

fn read_limited(file: std::fs::File, path: &Path) -> Result<String, HostsError> {
    let mut text = String::new();
    let read = file.take(HOSTS_FILE_BYTES_MAX + 1).read_to_string(&mut text);
    let read = read.map_err(|source| HostsError::Read { path: path.to_owned(), source })?;
    if u64::try_from(read).is_ok_and(|read| read <= HOSTS_FILE_BYTES_MAX) {
        Ok(text)
    } else {
        Err(HostsError::TooLarge { path: path.to_owned() })
    }
}

/// Docker's layout of certificates.
fn certificates_of(directory: &Path) -> Result<TlsFiles, HostsError> {
    let read = |source| HostsError::Read { path: directory.to_owned(), source };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(read)? {
        paths.push(entry.map_err(read)?.path());
    }
    paths.sort();
    let with = |extension: &str| {
        let matching = |path: &&PathBuf| path.extension().is_some_and(|found| found == extension);
        paths.iter().filter(matching).cloned().collect::<Vec<_>>()
    };
    let identities = with("cert").into_iter().map(|path| (path.clone(), Some(path.with_extension("key")))).collect();
    Ok(TlsFiles { authorities: with("crt"), identities, skip_verify: false })
}

/// A URL as it stands in the file, to the base that requests are appended to.
fn base_url(text: &str, path_is_complete: bool) -> Result<Url, String> {
    let with_scheme = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let mut url: Url = with_scheme.parse().map_err(|error| format!("{text:?} is no URL: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err(format!("{text:?}: only http and https URLs with a host can be asked"));
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        return Err(format!("{:?} has more than scheme, host, port and path", url.host_str().unwrap_or_default()));
    }
    let path = url.path().trim_end_matches('/').to_owned();
    let path = if path_is_complete || path.ends_with("/v2") { path } else { format!("{path}/v2") };
    url.set_path(&path);
    Ok(url)
}

/// A header line of the file. The value is kept out of `Debug`: it is often a token.
fn header_line(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), String> {
    let header: HeaderName = name.parse().map_err(|_| format!("{name:?} is no header name"))?;
    let mut value: HeaderValue = value.parse().map_err(|_| format!("the value of header {name:?} can't be sent"))?;
    value.set_sensitive(true);
    Ok((header, value))
}

/// A duration as Go writes it: numbers, perhaps with fractions, each with its unit: `500ms`, `1.5s`, `1m30s`.
fn duration(text: &str) -> Option<Duration> {
    let mut sum = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() || text.is_empty() {
        let end = rest.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
        let (number, after) = rest.split_at(end);
        let unit = after.bytes().take_while(|byte| !byte.is_ascii_digit() && *byte != b'.').count();
        let (unit, after) = after.split_at(unit);
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        sum = sum.checked_add(Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()?)?;
        rest = after;
    }
    Some(sum)
}

type HeaderTable = BTreeMap<String, file::OneOrMany>;

#[cfg(test)]
mod tests;
