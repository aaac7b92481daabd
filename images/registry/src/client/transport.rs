//! The HTTP clients, one per TLS setting.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use reqwest::{Certificate, Client, Identity, Proxy, Url};

use super::RegistryConfig;
use crate::error::{Cause, told};
use crate::hosts::{Endpoint, TlsFiles};
use crate::resolver::{HOSTS, HostResolver, RESOLV_CONF};

/// Longest PEM file that is read, in bytes: beyond any bundle of authorities.
const PEM_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Clients kept; beyond, all are dropped and made again when needed. Each holds its own connections.
const CLIENTS_MAX: usize = 32;

/// What makes two requests able to share connections.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    /// `None`: plain HTTP, without any TLS.
    tls: Option<TlsFiles>,
    /// When the files were last changed, and the resolver's: a renewed certificate or another network shall not need a
    /// restart.
    changed: Vec<Option<SystemTime>>,
    dial_timeout: Option<Duration>,
}

#[derive(Debug, Default)]
pub(super) struct Transports(Mutex<HashMap<Key, Client>>);

impl Transports {
    /// The client for a URL that a request to `endpoint` goes to. Elsewhere than at home it shows no client certificate.
    pub(super) fn client(&self, config: &RegistryConfig, endpoint: &Endpoint, url: &Url) -> Result<Client, Cause> {
        let tls = (url.scheme() == "https").then(|| {
            let mut tls = endpoint.tls.clone();
            if url.origin() != endpoint.base.origin() {
                tls.identities.clear();
            }
            tls
        });
        let files = tls.iter().flat_map(TlsFiles::files).chain([Path::new(RESOLV_CONF), Path::new(HOSTS)]);
        let changed = files.map(|path| std::fs::metadata(path).and_then(|data| data.modified()).ok()).collect();
        let key = Key { tls, changed, dial_timeout: endpoint.dial_timeout };
        let mut clients = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let client = build(config, &key)?;
        if clients.len() >= CLIENTS_MAX {
            clients.clear();
        }
        clients.insert(key, client.clone());
        Ok(client)
    }
}

impl TlsFiles {
    fn files(&self) -> impl Iterator<Item = &Path> {
        let identities = self.identities.iter().flat_map(|(certificate, key)| [Some(certificate), key.as_ref()]);
        self.authorities.iter().chain(identities.flatten()).map(PathBuf::as_path)
    }
}

fn build(config: &RegistryConfig, key: &Key) -> Result<Client, Cause> {
    let proxies = config.proxies.clone();
    let mut builder = Client::builder()
        .user_agent(concat!("podwright/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(key.dial_timeout.unwrap_or(config.connect_timeout))
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .no_proxy()
        .proxy(Proxy::custom(move |url| proxies.of(url)))
        .dns_resolver(HostResolver::of_this_host());
    match &key.tls {
        // Plain HTTP needs no authorities: reading the system's takes milliseconds and fails on a host without any.
        None => builder = builder.tls_certs_only([]),
        Some(tls) => {
            let mut authorities = Vec::new();
            for path in &tls.authorities {
                let pem = read_pem(path)?;
                let parsed = Certificate::from_pem_bundle(&pem).map_err(|error| wrong(path, &told(error)))?;
                if parsed.is_empty() {
                    return Err(wrong(path, "no certificate in it"));
                }
                authorities.extend(parsed);
            }
            if !authorities.is_empty() {
                builder = builder.tls_certs_merge(authorities);
            }
            // Of several client certificates the first is shown: TLS sends one.
            if let Some((certificate, key)) = tls.identities.first() {
                let mut pem = read_pem(certificate)?;
                if let Some(key) = key {
                    pem.push(b'\n');
                    pem.extend(read_pem(key)?);
                }
                builder = builder.identity(Identity::from_pem(&pem).map_err(|error| wrong(certificate, &told(error)))?);
            }
            if tls.skip_verify {
                builder = builder.tls_danger_accept_invalid_certs(true);
            }
        }
    }
    builder.build().map_err(|error| Cause::Tls(told(error)))
}

fn wrong(path: &Path, why: &str) -> Cause {
    Cause::Tls(format!("{}: {why}", path.display()))
}

fn read_pem(path: &Path) -> Result<Vec<u8>, Cause> {
    use std::io::Read as _;
    let read = || {
        let mut pem = Vec::new();
        std::fs::File::open(path)?.take(PEM_BYTES_MAX).read_to_end(&mut pem)?;
        Ok(pem)
    };
    read().map_err(|error: std::io::Error| wrong(path, &error.to_string()))
}
