//! Which hosts are which: loopback, the same origin, allowed as the target of a redirect.

use std::net::IpAddr;

use reqwest::Url;
use reqwest::header::HeaderMap;

/// Scheme, host and port: what credentials are bound to.
pub(crate) fn origin(url: &Url) -> String {
    let port = url.port_or_known_default().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{}{port}", url.scheme(), url.host_str().unwrap_or_default())
}

/// Whether nobody but this machine can read what is sent there.
pub(crate) fn is_loopback(url: &Url) -> bool {
    let Some(host) = url.host_str() else { return false };
    is_loopback_host(host)
}

/// The same for `host` or `host:port` without a scheme.
pub(crate) fn is_loopback_host(host: &str) -> bool {
    match address(host) {
        Some(address) => address.is_loopback(),
        None => host == "localhost" || host.ends_with(".localhost"),
    }
}

fn address(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok().map(|address: IpAddr| address.to_canonical())
}

/// Whether the URL names, by number, an address that only this machine or its link can mean: services there trust
/// whoever reaches them (cloud metadata answers on 169.254.169.254).
fn is_local(url: &Url) -> bool {
    is_loopback(url)
        || match url.host_str().and_then(address) {
            Some(IpAddr::V4(address)) => address.is_link_local() || address.is_unspecified(),
            Some(IpAddr::V6(address)) => address.is_unicast_link_local() || address.is_unspecified(),
            None => false,
        }
}

/// Why a redirect isn't followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RedirectRefused {
    /// No Location, or one that is no http URL.
    #[error("a redirect without a usable Location")]
    NoTarget,
    /// From https to http.
    #[error("a redirect from https to http://{host}")]
    Downgrade {
        /// The target.
        host: String,
    },
    /// From elsewhere to an address of this machine or its link.
    #[error("a redirect to {host}, an address that is local to this machine")]
    Local {
        /// The target.
        host: String,
    },
    /// Credentials in the target's URL.
    #[error("a redirect to {host} with a user name in the URL")]
    UserInfo {
        /// The target.
        host: String,
    },
    /// More than the limit.
    #[error("more than {0} redirects")]
    TooMany(usize),
}

/// The target of a redirect, if it may be followed.
pub(crate) fn redirect_target(from: &Url, headers: &HeaderMap) -> Result<Url, RedirectRefused> {
    let location = headers.get(reqwest::header::LOCATION).and_then(|value| value.to_str().ok());
    let target = location.and_then(|location| from.join(location).ok()).ok_or(RedirectRefused::NoTarget)?;
    if !matches!(target.scheme(), "http" | "https") {
        return Err(RedirectRefused::NoTarget);
    }
    let host = target.host_str().ok_or(RedirectRefused::NoTarget)?.to_owned();
    if !target.username().is_empty() || target.password().is_some() {
        return Err(RedirectRefused::UserInfo { host });
    }
    if is_local(&target) && !is_local(from) {
        return Err(RedirectRefused::Local { host });
    }
    if from.scheme() == "https" && target.scheme() == "http" && !is_loopback(&target) {
        return Err(RedirectRefused::Downgrade { host });
    }
    Ok(target)
}

/// The host (with its port, if one is written) of `host`, `host:port/path` or a URL; `None` when there is none.
pub(crate) fn bare_host(address: &str) -> Option<&str> {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    (!host.is_empty() && !host.contains('@')).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_judged_by_where_they_lead() {
        for (from, to, allowed) in [
            ("https://a.example/x", "https://b.example/y", true),
            ("https://a.example/x", "/y", true),
            ("http://a.example/x", "https://b.example/y", true),
            ("http://a.example/x", "http://b.example/y", true),
            ("https://a.example/x", "http://b.example/y", false),
            ("https://127.0.0.1:1/x", "http://127.0.0.1:2/y", true),
            ("https://127.0.0.1:1/x", "http://b.example/y", false),
            ("https://a.example/x", "https://127.0.0.1/y", false),
            ("https://a.example/x", "https://localhost/y", false),
            ("https://a.example/x", "https://[::ffff:127.0.0.1]/y", false),
            ("https://a.example/x", "https://169.254.169.254/latest", false),
            ("https://a.example/x", "https://0.0.0.0/", false),
            ("https://a.example/x", "https://2130706433/", false),
            ("https://a.example/x", "file:///etc/shadow", false),
            ("https://a.example/x", "https://u:p@b.example/", false),
            ("https://a.example/x", "https://", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(reqwest::header::LOCATION, to.parse().unwrap());
            let verdict = redirect_target(&from.parse().unwrap(), &headers);
            assert_eq!(verdict.is_ok(), allowed, "{from} -> {to}: {verdict:?}");
        }
        assert!(redirect_target(&"https://a.example/x".parse().unwrap(), &HeaderMap::new()).is_err());
    }

    #[test]
    fn hosts_of_addresses() {
        for (address, host) in [
            ("docker.io", Some("docker.io")),
            ("https://index.docker.io/v1/", Some("index.docker.io")),
            ("127.0.0.1:5000/x", Some("127.0.0.1:5000")),
            ("https://", None),
            ("", None),
            ("u@h", None),
        ] {
            assert_eq!(bare_host(address), host, "{address}");
        }
    }
}
