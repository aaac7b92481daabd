//! `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf` of a pod. The texts are pure; the pod's directory holds the files.

use std::{fmt::Write as _, net::IpAddr};

use runtime_lifecycle::{Dns, SandboxConfig};

use crate::EngineError;

pub(crate) const HOSTS: &str = "hosts";
pub(crate) const HOSTNAME: &str = "hostname";
pub(crate) const RESOLV_CONF: &str = "resolv.conf";

/// Most entries of each kind in a resolv.conf; the resolver of glibc uses 3 servers, kubelets send up to 32 domains.
const ENTRIES_MAX: usize = 256;

/// Longest entry, in bytes; a domain's name has 253.
const ENTRY_BYTES_MAX: usize = 1024;

/// Longest host name, in bytes (`HOST_NAME_MAX`).
const HOSTNAME_BYTES_MAX: usize = 64;

/// Refuses names that would be something else in one of the files.
pub(crate) fn check(config: &SandboxConfig) -> Result<(), EngineError> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if config.hostname.len() > HOSTNAME_BYTES_MAX || !config.hostname.bytes().all(good) {
        return Err(EngineError::invalid(
            "hostname",
            format!(
                "{:?} is not one: up to 64 letters, digits, dots and dashes",
                config.hostname.chars().take(100).collect::<String>()
            ),
        ));
    }
    let Some(dns) = &config.dns else { return Ok(()) };
    for (what, entries) in [("DNS server", &dns.servers), ("DNS search", &dns.searches), ("DNS option", &dns.options)] {
        if entries.len() > ENTRIES_MAX {
            return Err(EngineError::invalid(what, format!("more than {ENTRIES_MAX}")));
        }
        for entry in entries {
            // A line break would begin a line of somebody else's choice.
            let bad = entry.is_empty()
                || entry.len() > ENTRY_BYTES_MAX
                || entry.bytes().any(|byte| byte <= b' ' || byte == 0x7f);
            if bad {
                return Err(EngineError::invalid(
                    what,
                    format!("{:?} is not one", entry.chars().take(100).collect::<String>()),
                ));
            }
        }
    }
    Ok(())
}

/// The text of `/etc/hosts`.
pub(crate) fn hosts(hostname: &str, ips: &[IpAddr]) -> String {
    let mut text = String::from(
        "# Written by podwright.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
    );
    if !hostname.is_empty() {
        for ip in ips {
            writeln!(text, "{ip}\t{hostname}").expect("writing to a string can't fail");
        }
    }
    text
}

/// The text of `/etc/resolv.conf`.
pub(crate) fn resolv_conf(dns: &Dns) -> String {
    let mut text = String::new();
    for server in &dns.servers {
        writeln!(text, "nameserver {server}").expect("writing to a string can't fail");
    }
    if !dns.searches.is_empty() {
        writeln!(text, "search {}", dns.searches.join(" ")).expect("writing to a string can't fail");
    }
    if !dns.options.is_empty() {
        writeln!(text, "options {}", dns.options.join(" ")).expect("writing to a string can't fail");
    }
    text
}

#[cfg(test)]
mod tests {
    use runtime_lifecycle::Dns;

    use super::{hosts, resolv_conf};

    #[test]
    fn texts() {
        let text = hosts("web-0", &["10.1.2.3".parse().expect("an address")]);
        assert!(text.contains("127.0.0.1\tlocalhost\n") && text.ends_with("10.1.2.3\tweb-0\n"), "{text}");
        assert!(!hosts("", &["10.1.2.3".parse().expect("an address")]).contains("10.1.2.3"));
        let dns = Dns {
            servers: vec!["10.0.0.10".to_owned(), "8.8.8.8".to_owned()],
            searches: vec!["svc.local".to_owned(), "local".to_owned()],
            options: vec!["ndots:5".to_owned()],
        };
        assert_eq!(
            resolv_conf(&dns),
            "nameserver 10.0.0.10\nnameserver 8.8.8.8\nsearch svc.local local\noptions ndots:5\n"
        );
        assert_eq!(resolv_conf(&Dns::default()), "");
    }
}
