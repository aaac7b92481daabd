//! Names to addresses: from the host's `/etc/hosts` and the name servers that its `/etc/resolv.conf` names, and from nobody
//! else. A library's fallback to somebody's public resolver would tell a stranger which registries this host knows, and let
//! him answer.

use std::{
    fs::File,
    io::{self, Read as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};

use hickory_resolver::{
    Hosts, TokioResolver,
    config::{LookupIpStrategy, ResolveHosts},
    net::{NetError, runtime::TokioRuntimeProvider},
    proto::{
        op::Query,
        rr::{Name as DnsName, RecordType},
    },
    system_conf::parse_resolv_conf,
};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::OnceCell;

/// The host's resolver configuration.
pub(crate) const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The host's table of names.
pub(crate) const HOSTS: &str = "/etc/hosts";

/// Longest of the two files that is read, in bytes: beyond any list of blocked names.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Why a name has no address.
#[derive(Debug, thiserror::Error)]
enum NameError {
    #[error("no name server: {} is missing or names none", path.display())]
    NoServer { path: PathBuf, source: NetError },
    #[error("cannot look {name:?} up")]
    Lookup { name: String, source: NetError },
}

/// Resolves as the host does. The files are read at the first name; whoever holds it makes a new one when they change.
#[derive(Debug, Clone)]
pub(crate) struct HostResolver(Arc<State>);

#[derive(Debug)]
struct State {
    resolv_conf: PathBuf,
    hosts: PathBuf,
    table: OnceCell<Hosts>,
    servers: OnceCell<TokioResolver>,
}

impl HostResolver {
    /// By the files of this host.
    pub(crate) fn of_this_host() -> Self {
        Self::of(Path::new(RESOLV_CONF), Path::new(HOSTS))
    }

    fn of(resolv_conf: &Path, hosts: &Path) -> Self {
        Self(Arc::new(State {
            resolv_conf: resolv_conf.to_owned(),
            hosts: hosts.to_owned(),
            table: OnceCell::new(),
            servers: OnceCell::new(),
        }))
    }

    async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, NameError> {
        // Before anything else: what is taken for this machine when credentials are judged must be this machine.
        if crate::net::is_loopback_host(name.trim_end_matches('.')) {
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        let listed = self.listed(name).await;
        if !listed.is_empty() {
            return Ok(listed);
        }
        let servers = self.0.servers.get_or_try_init(|| async { self.servers() }).await?;
        let found = servers.lookup_ip(name).await;
        found.map(|found| found.iter().collect()).map_err(|source| NameError::Lookup { name: name.to_owned(), source })
    }

    /// What the table of names says.
    async fn listed(&self, name: &str) -> Vec<IpAddr> {
        let table = self.0.table.get_or_init(|| async { table(&self.0.hosts) }).await;
        let Ok(name) = DnsName::from_utf8(name) else { return Vec::new() };
        let mut listed = Vec::new();
        for kind in [RecordType::AAAA, RecordType::A] {
            if let Some(found) = table.lookup_static_host(&Query::query(name.to_lowercase(), kind)) {
                listed.extend(found.answers().iter().filter_map(|record| record.data.ip_addr()));
            }
        }
        listed
    }

    fn servers(&self) -> Result<TokioResolver, NameError> {
        let path = &self.0.resolv_conf;
        let none = |source| NameError::NoServer { path: path.clone(), source };
        let (config, mut options) =
            read(path).map_err(NetError::from).and_then(|text| parse_resolv_conf(&text)).map_err(none)?;
        // Both kinds at once: whichever address answers first is used.
        options.ip_strategy = LookupIpStrategy::Ipv6AndIpv4;
        // Looked at already.
        options.use_hosts_file = ResolveHosts::Never;
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            .with_options(options)
            .build()
            .map_err(none)
    }
}

/// One that can't be read is empty, as for every other program.
fn table(path: &Path) -> Hosts {
    let mut hosts = Hosts::default();
    if let Err(error) = read(path).and_then(|text| hosts.read_hosts_conf(text.as_slice())) {
        tracing::debug!(path = %path.display(), %error, "the table of names could not be read");
    }
    hosts
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX).read_to_end(&mut text)?;
    Ok(text)
}

impl Resolve for HostResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let resolver = self.clone();
        Box::pin(async move {
            let addresses = resolver.addresses(name.as_str()).await?;
            // Port 0: the client puts the URL's in.
            let addresses: Addrs = Box::new(addresses.into_iter().map(|address| SocketAddr::new(address, 0)));
            Ok(addresses)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{error::Error as _, fs, net::IpAddr};

    use super::HostResolver;

    fn resolve(resolv_conf: Option<&str>, hosts: Option<&str>, name: &str) -> Result<Vec<IpAddr>, String> {
        let directory = tempfile::tempdir().unwrap();
        let (conf, table) = (directory.path().join("resolv.conf"), directory.path().join("hosts"));
        for (path, text) in [(&conf, resolv_conf), (&table, hosts)] {
            if let Some(text) = text {
                fs::write(path, text).unwrap();
            }
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(HostResolver::of(&conf, &table).addresses(name)).map_err(|error| {
            let cause = error.source().map(ToString::to_string).unwrap_or_default();
            format!("{error}: {cause}").replace(directory.path().to_str().unwrap(), "")
        })
    }

    #[test]
    fn without_a_name_server_nobody_is_asked() {
        for (conf, hosts) in [
            (None, None),
            (Some(""), None),
            (Some("search example.org\noptions ndots:1\n"), Some("192.0.2.1 other.example\n")),
            (Some("nameserver what\n"), None),
        ] {
            let told = resolve(conf, hosts, "registry.example").expect_err("nobody may answer");
            assert!(told.starts_with("no name server: /resolv.conf is missing or names none"), "{conf:?}: {told}");
        }
    }

    #[test]
    fn the_hosts_own_table_and_localhost_need_no_server() {
        let table =
            "# ours\n192.0.2.1 registry.example r\n2001:db8::1\tregistry.example\n192.0.2.9 localhost evil.localhost\n";
        for (name, expected) in [
            ("registry.example", vec!["2001:db8::1", "192.0.2.1"]),
            ("Registry.Example", vec!["2001:db8::1", "192.0.2.1"]),
            ("r", vec!["192.0.2.1"]),
            ("localhost", vec!["127.0.0.1", "::1"]),
            ("evil.localhost", vec!["127.0.0.1", "::1"]),
        ] {
            let expected: Vec<IpAddr> = expected.into_iter().map(|address| address.parse().unwrap()).collect();
            assert_eq!(resolve(None, Some(table), name).as_ref(), Ok(&expected), "{name}");
        }
    }
}
