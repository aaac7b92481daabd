//! The grammar of references, and Docker's way to fill in what people leave out:
//! <https://pkg.go.dev/github.com/distribution/reference>. Written out and not as a regular expression: the automaton of one
//! takes more memory than all else in a fresh node together.

use std::borrow::Cow;

/// Where a name has no registry, and what Docker calls it, too.
const DEFAULT_REGISTRY: &str = "docker.io";
const DEFAULT_REGISTRY_ALIAS: &str = "index.docker.io";

/// Where a name at the default registry has no namespace.
const DEFAULT_NAMESPACE: &str = "library/";

const DEFAULT_TAG: &str = "latest";

/// Longest tag, in bytes, by the distribution specification.
const TAG_BYTES_MAX: usize = 128;

/// Longest repository, in bytes.
const REPOSITORY_BYTES_MAX: usize = 255;

/// A reference's parts, with what was left out.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Parts<'a> {
    /// With its port.
    pub(super) registry: &'a str,
    pub(super) port: Option<&'a str>,
    pub(super) repository: Cow<'a, str>,
    pub(super) tag: Option<&'a str>,
    pub(super) digest: Option<&'a str>,
}

/// `None` for what the grammar doesn't have.
pub(super) fn parse(text: &str) -> Option<Parts<'_>> {
    let (named, digest) = match text.split_once('@') {
        Some((named, digest)) => (named, Some(digest).filter(|digest| is_digest(digest)).map(Some)?),
        None => (text, None),
    };
    // A colon before the last slash is the port's.
    let (name, tag) = match named.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag).filter(|tag| is_tag(tag)).map(Some)?),
        _ => (named, None),
    };
    let (registry, path) = match name.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest),
        _ => (DEFAULT_REGISTRY, name),
    };
    let port = match registry.split_once(':') {
        Some((host, port)) => (is_host(host) && !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()))
            .then_some(Some(port))?,
        // With underscores it is no host name; networks of containers have such all the same.
        None => (is_host(registry) || is_path_component(registry)).then_some(None)?,
    };
    let registry = if registry == DEFAULT_REGISTRY_ALIAS { DEFAULT_REGISTRY } else { registry };
    let repository = match registry {
        DEFAULT_REGISTRY if !path.contains('/') => Cow::from(format!("{DEFAULT_NAMESPACE}{path}")),
        _ => Cow::from(path),
    };
    if repository.len() > REPOSITORY_BYTES_MAX || !path.split('/').all(is_path_component) {
        return None;
    }
    let tag = if tag.is_none() && digest.is_none() { Some(DEFAULT_TAG) } else { tag };
    Some(Parts { registry, port, repository, tag, digest })
}

/// A domain name or an IPv4 address.
fn is_host(host: &str) -> bool {
    host.split('.').all(|label| {
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        !label.is_empty() && !label.starts_with('-') && !label.ends_with('-') && label.bytes().all(inner)
    })
}

/// Lower-case letters and digits, in runs that one period, one or two underscores, or any number of dashes keep apart.
fn is_path_component(component: &str) -> bool {
    let is_run = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let mut separator = String::new();
    let mut begun = false;
    for byte in component.bytes() {
        if is_run(byte) {
            let apart = separator.is_empty() || (begun && is_separator(&separator));
            if !apart {
                return false;
            }
            separator.clear();
            begun = true;
        } else {
            separator.push(char::from(byte));
        }
    }
    begun && separator.is_empty()
}

fn is_separator(text: &str) -> bool {
    matches!(text, "." | "_" | "__") || text.bytes().all(|byte| byte == b'-')
}

fn is_tag(tag: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    tag.len() <= TAG_BYTES_MAX
        && tag.bytes().next().is_some_and(is_word)
        && tag.bytes().all(|byte| is_word(byte) || matches!(byte, b'.' | b'-'))
}

/// One of the algorithms that OCI registers, and as many hex digits as it has.
fn is_digest(digest: &str) -> bool {
    let Some((algorithm, digits)) = digest.split_once(':') else { return false };
    let count = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return false,
    };
    digits.len() == count && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use oci_spec::distribution::Reference;
    use proptest::prelude::*;

    use super::*;

    /// The judge is another's regular expression.
    fn judged(text: &str) -> Result<(), TestCaseError> {
        // Where capitals stand in the first part of a path, it passes what has no registry: refused later.
        let theirs = Reference::try_from(text)
            .ok()
            .filter(|theirs| !theirs.repository().bytes().any(|byte| byte.is_ascii_uppercase()));
        let ours = parse(text);
        prop_assert_eq!(ours.is_some(), theirs.is_some(), "{:?}: {:?}, {:?}", text, ours, theirs);
        if let (Some(ours), Some(theirs)) = (ours, theirs) {
            prop_assert_eq!(ours.registry, theirs.registry());
            prop_assert_eq!(&*ours.repository, theirs.repository());
            prop_assert_eq!(ours.tag, theirs.tag());
            prop_assert_eq!(ours.digest, theirs.digest());
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn any_ascii_is_read_as_others_do(text in "[ -~]{0,24}") {
            judged(&text)?;
        }

        #[test]
        fn what_looks_like_one_is_read_as_others_do(
            text in "([aA0][-.:_a0]{0,3}/){0,3}[a0][-._a0]{0,4}(:[-._aA0]{0,4})?(@sha(256:[0-9a-fA-F]{63,65}|384:[0-9a]{95,97}|512:[a-f]{127,129}))?"
        ) {
            judged(&text)?;
        }

        #[test]
        fn hosts_are_read_as_others_do(
            text in "(localhost|index\\.docker\\.io|docker\\.io|\\[[:a-f0-9]{0,5}\\]|[a0.-]{1,5}|A\\.b)(:[0-9a]{0,5})?/[a-z/._-]{1,6}"
        ) {
            judged(&text)?;
        }
    }

    #[test]
    fn lengths_are_read_as_others_do() {
        for (name, tag) in [(255, 128), (256, 128), (255, 129), (247, 1), (248, 1), (249, 1)] {
            let text = format!("{}:{}", "a".repeat(name), "t".repeat(tag));
            judged(&text).expect("the same");
            judged(&format!("x.y/{text}")).expect("the same");
            judged(&format!("x/{text}")).expect("the same");
        }
    }
}
