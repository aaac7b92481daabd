//! Proxies as the environment names them: `HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`, each also in lower case, read the way
//! Go's programs do (and with them every other runtime), so that a host's settings mean here what they mean there.

use std::fmt;
use std::net::IpAddr;

use reqwest::Url;

use crate::net::is_loopback;

/// Most entries of `NO_PROXY` that are looked at: each costs a comparison per request.
const RULES_MAX: usize = 1024;

/// Which requests go through which proxy. Requests to this machine never do.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    https: Option<Url>,
    http: Option<Url>,
    direct: Vec<Direct>,
}

/// Settings that can't be used. Names the variable, never its value's password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{variable}: {problem}")]
pub struct ProxyError {
    /// The variable.
    pub variable: &'static str,
    /// What is wrong with its value.
    pub problem: &'static str,
}

/// Hosts that are reached without a proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Direct {
    All,
    /// An address range: the address and the number of bits that count; a port.
    Range(IpAddr, u32, Option<u16>),
    /// A domain with what is below it, or only what is below it; a port.
    Domain {
        name: String,
        below_only: bool,
        port: Option<u16>,
    },
}

impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |proxy: &Option<Url>| proxy.as_ref().map(address);
        f.debug_struct("Proxies")
            .field("https", &shown(&self.https))
            .field("http", &shown(&self.http))
            .field("direct", &self.direct)
            .finish()
    }
}

impl Proxies {
    /// Reads the variables through `variable`, which answers with a value or nothing.
    ///
    /// # Errors
    /// A proxy that is no http or https address.
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Self, ProxyError> {
        let either = |upper: &str, lower: &str| {
            [upper, lower]
                .into_iter()
                .filter_map(&variable)
                .map(|value| value.trim().to_owned())
                .find(|v| !v.is_empty())
        };
        let proxy = |name: &'static str, lower: &str| {
            either(name, lower).map(|value| parse(&value).map_err(|problem| ProxyError { variable: name, problem }))
        };
        let direct = either("NO_PROXY", "no_proxy").unwrap_or_default();
        Ok(Self {
            https: proxy("HTTPS_PROXY", "https_proxy").transpose()?,
            http: proxy("HTTP_PROXY", "http_proxy").transpose()?,
            direct: direct.split(',').take(RULES_MAX).filter_map(Direct::parse).collect(),
        })
    }

    /// The proxy for a request, with its credentials; `None`: none.
    pub(crate) fn of(&self, url: &Url) -> Option<Url> {
        let proxy = if url.scheme() == "https" { self.https.as_ref() } else { self.http.as_ref() }?;
        let host = url.host_str()?.trim_end_matches('.').to_ascii_lowercase();
        let port = url.port_or_known_default();
        let is_direct = is_loopback(url) || self.direct.iter().any(|direct| direct.covers(&host, port));
        (!is_direct).then(|| proxy.clone())
    }

    /// The proxy of a request, fit for a message.
    pub(crate) fn shown(&self, url: &Url) -> Option<String> {
        self.of(url).as_ref().map(address)
    }
}

/// Scheme, host and port.
fn address(proxy: &Url) -> String {
    let port = proxy.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{}{port}", proxy.scheme(), proxy.host_str().unwrap_or_default())
}

fn parse(value: &str) -> Result<Url, &'static str> {
    let with_scheme = if value.contains("://") { value.to_owned() } else { format!("http://{value}") };
    let url: Url = with_scheme.parse().map_err(|_unreadable| "it is no address")?;
    match url.scheme() {
        "http" | "https" if url.host_str().is_some_and(|host| !host.is_empty()) => Ok(url),
        "http" | "https" => Err("it names no host"),
        _ => Err("only http and https proxies are supported"),
    }
}

impl Direct {
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim().to_ascii_lowercase();
        match text.as_str() {
            "" => return None,
            "*" => return Some(Self::All),
            _ => {}
        }
        if let Some((address, bits)) = text.split_once('/') {
            let address: IpAddr = address.parse().ok()?;
            let bits: u32 = bits.parse().ok()?;
            return (bits <= length(address)).then_some(Self::Range(address, bits, None));
        }
        if let Ok(address) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
            return Some(Self::Range(address, length(address), None));
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.parse::<u16>().ok()?)),
            None => (text.as_str(), None),
        };
        if let Ok(address) = host.trim_matches(['[', ']']).parse::<IpAddr>() {
            return Some(Self::Range(address, length(address), port));
        }
        // `*.example.org` and `.example.org` are what is below, `example.org` is itself, too.
        let name = host.strip_prefix('*').unwrap_or(host);
        let below_only = name.starts_with('.');
        let name = name.trim_start_matches('.').to_owned();
        (!name.is_empty()).then_some(Self::Domain { name, below_only, port })
    }

    fn covers(&self, host: &str, port: Option<u16>) -> bool {
        match self {
            Self::All => true,
            Self::Range(range, bits, wanted) => {
                let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
                wanted.is_none_or(|wanted| port == Some(wanted))
                    && address.is_ok_and(|address| within(address.to_canonical(), range.to_canonical(), *bits))
            }
            Self::Domain { name, below_only, port: wanted } => {
                let below = host.strip_suffix(name.as_str()).is_some_and(|front| front.ends_with('.'));
                wanted.is_none_or(|wanted| port == Some(wanted)) && (below || !below_only && host == name)
            }
        }
    }
}

fn length(address: IpAddr) -> u32 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// Whether the first bits of two addresses of one family are equal.
fn within(address: IpAddr, range: IpAddr, bits: u32) -> bool {
    match (address, range) {
        (IpAddr::V4(address), IpAddr::V4(range)) => {
            let differing = address.to_bits() ^ range.to_bits();
            differing.checked_shr(32_u32.saturating_sub(bits)).unwrap_or(0) == 0
        }
        (IpAddr::V6(address), IpAddr::V6(range)) => {
            let differing = address.to_bits() ^ range.to_bits();
            differing.checked_shr(128_u32.saturating_sub(bits)).unwrap_or(0) == 0
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> Result<Proxies, ProxyError> {
        let find =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        Proxies::from_variables(find)
    }

    #[test]
    fn no_proxy_is_read_as_go_reads_it() {
        let direct =
            ".below.example, example.org,*.star.example ,10.0.0.0/8,192.0.2.7,port.example:8443,fd00::/8,nonsense/99,";
        let found = proxies(&[("https_proxy", "proxy.example:3128"), ("NO_PROXY", direct)]).unwrap();
        for (url, proxied) in [
            ("https://quay.io/v2/", true),
            ("http://quay.io/v2/", false),
            ("https://example.org/", false),
            ("https://EXAMPLE.org./", false),
            ("https://a.example.org/", false),
            ("https://notexample.org/", true),
            ("https://below.example/", true),
            ("https://a.below.example/", false),
            ("https://star.example/", true),
            ("https://a.star.example/", false),
            ("https://10.1.2.3/", false),
            ("https://11.1.2.3/", true),
            ("https://192.0.2.7:5000/", false),
            ("https://192.0.2.8/", true),
            ("https://[fd00::1]/", false),
            ("https://[2001:db8::1]/", true),
            ("https://port.example:8443/", false),
            ("https://port.example/", true),
            ("https://localhost:5000/", false),
            ("https://127.0.0.9/", false),
            ("https://[::1]:5000/", false),
        ] {
            assert_eq!(found.of(&url.parse().unwrap()).is_some(), proxied, "{url}");
        }
        assert_eq!(found.shown(&"https://quay.io/".parse().unwrap()).unwrap(), "http://proxy.example:3128");
        let none = proxies(&[("HTTPS_PROXY", "http://p"), ("no_proxy", "*")]).unwrap();
        assert_eq!(none.of(&"https://quay.io/".parse().unwrap()), None);
    }

    #[test]
    fn the_variables_and_what_is_wrong_with_them() {
        let both =
            proxies(&[("HTTPS_PROXY", ""), ("https_proxy", "http://u:hunter2@p:1"), ("HTTP_PROXY", "q")]).unwrap();
        assert!(!format!("{both:?}").contains("hunter2"), "{both:?}");
        assert_eq!(both.of(&"https://a/".parse().unwrap()).unwrap().password(), Some("hunter2"));
        assert_eq!(both.of(&"http://a/".parse().unwrap()).unwrap().as_str(), "http://q/");
        for value in ["socks5://p:1", "http://", "http://[", "ftp://x"] {
            let error = proxies(&[("HTTPS_PROXY", value)]).expect_err(value);
            assert_eq!(error.variable, "HTTPS_PROXY");
        }
    }
}
