//! Names of images, as people write them.

use std::fmt;
use std::str::FromStr;

use oci_spec::image::Digest;

mod grammar;

/// Longest reference that is looked at at all. A host name (253), a repository (255), a tag (128) and a digest (135)
/// with what joins them stay below it; what is longer is an attack on the parser or the log.
pub const REFERENCE_BYTES_MAX: usize = 1024;

/// An image's full name: registry, repository, and a tag or a digest (or both; the digest then decides).
///
/// Parsed as Docker and containerd do: `nginx` means `docker.io/library/nginx:latest`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// The registry's host, with its port when it has one: `docker.io`, `127.0.0.1:5005`.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository in that registry: `library/nginx`.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; absent when the reference has only a digest.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if the reference is pinned by one.
    #[must_use]
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// `registry/repository`, without tag and digest.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The same repository, pinned to `digest` and without a tag: what CRI calls a repo digest.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = |why| ReferenceError { reference: shown(text), why };
        if text.len() > REFERENCE_BYTES_MAX {
            return Err(refused(ReferenceProblem::TooLong));
        }
        // The grammar below would let letters of any script into a tag; a registry never has such a one.
        if !text.is_ascii() {
            return Err(refused(ReferenceProblem::NotAscii));
        }
        if looks_like_id(text) {
            return Err(refused(ReferenceProblem::LooksLikeId));
        }
        let parsed = grammar::parse(text).ok_or_else(|| refused(problem(text)))?;
        let digest = match parsed.digest {
            Some(digest) => Some(digest.parse::<Digest>().map_err(|_| refused(ReferenceProblem::Digest))?),
            None => None,
        };
        if let Some(port) = parsed.port
            && port.parse::<u16>().ok().filter(|port| *port != 0).is_none()
        {
            return Err(refused(ReferenceProblem::Port));
        }
        Ok(Self {
            registry: parsed.registry.to_owned(),
            repository: parsed.repository.into_owned(),
            tag: parsed.tag.map(ToOwned::to_owned),
            digest,
        })
    }
}

/// What is wrong with a text that the grammar refuses.
fn problem(text: &str) -> ReferenceProblem {
    let lower = text.to_ascii_lowercase();
    if grammar::parse(&lower).is_some() { ReferenceProblem::Capitals } else { ReferenceProblem::Grammar }
}

/// 64 hex digits are an image's id, never a repository: Docker refuses such names too, else `rmi ID` and `pull ID` would
/// speak of different things.
fn looks_like_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn shown(text: &str) -> String {
    const SHOWN_CHARS_MAX: usize = 80;
    let mut shown: String = text.chars().take(SHOWN_CHARS_MAX).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

/// A text that names no image, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reference:?} is no image reference: {why}")]
pub struct ReferenceError {
    /// The text, cut when long.
    reference: String,
    /// What is wrong with it.
    why: ReferenceProblem,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum ReferenceProblem {
    #[error("longer than {REFERENCE_BYTES_MAX} bytes")]
    TooLong,
    #[error("only ASCII letters, digits and . _ - / : @ are allowed")]
    NotAscii,
    #[error("a repository's name must be lower-case")]
    Capitals,
    #[error("64 hex digits are an image id, not a name")]
    LooksLikeId,
    #[error("it is not [registry[:port]/]repository[:tag][@digest]")]
    Grammar,
    #[error("the digest isn't algorithm:lower-case hex digits")]
    Digest,
    #[error("the registry's port isn't between 1 and 65535")]
    Port,
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff";

    #[test]
    fn short_names_become_full_ones() {
        for (text, full) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("index.docker.io/nginx", "docker.io/library/nginx:latest"),
            ("bitnami/nginx:1.2", "docker.io/bitnami/nginx:1.2"),
            ("localhost/nginx", "localhost/nginx:latest"),
            ("127.0.0.1:5005/a/b:t", "127.0.0.1:5005/a/b:t"),
            ("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10"),
        ] {
            assert_eq!(text.parse::<Reference>().unwrap().to_string(), full);
        }
        let pinned: Reference = format!("quay.io/x/y:t@sha256:{HEX}").parse().unwrap();
        assert_eq!((pinned.tag(), pinned.digest().unwrap().as_ref()), (Some("t"), &*format!("sha256:{HEX}")));
        assert_eq!(
            pinned.with_digest(pinned.digest().unwrap().clone()).to_string(),
            format!("quay.io/x/y@sha256:{HEX}")
        );
    }

    #[test]
    fn hostile_names_are_refused() {
        for text in [
            "",
            " ",
            "a b",
            "UPPER/case",
            "../etc/passwd",
            "a/../b",
            "host:99999/a",
            "host.x:0/a",
            "nginx:täg",
            "nginx\n",
            "nginx\0",
            "nginx@sha256:../..",
            "nginx@sha256:",
            "nginx@md5:ffffffffffffffffffffffffffffffff",
            "http://host/nginx",
            "user@host/nginx",
            HEX,
            &format!("nginx@sha256:{}", HEX.to_uppercase()),
            &format!("nginx@sha256:{HEX}f"),
            &format!("nginx@sha256:{}", &HEX[1..]),
            &"a/".repeat(600),
            &"a".repeat(1 << 20),
        ] {
            let error = text.parse::<Reference>().expect_err(&shown(text));
            assert!(error.to_string().len() < 300, "{error}");
        }
    }
}
