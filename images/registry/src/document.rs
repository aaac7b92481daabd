//! From a name to the manifest of this platform's image.

use bytes::Bytes;
use oci_spec::image::{Descriptor, Digest, DigestAlgorithm, ImageManifest, MediaType};
use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, HeaderMap};
use sha2::{Digest as _, Sha256, Sha512};

use crate::auth::Auth;
use crate::client::{Call, Registry};
use crate::error::{Cause, RegistryError, words};
use crate::guard::Guarded;
use crate::hosts::Endpoint;
use crate::manifest::{
    DOCKER_LIST, DOCKER_MANIFEST, DOCUMENT_BYTES_MAX, Document, DocumentError, INDEX_DEPTH_MAX, OCI_INDEX,
    OCI_MANIFEST, Platform, choose, parse_document,
};
use crate::reference::Reference;

/// Longest small blob that is held in memory by [`Registry::small_blob`], in bytes.
const SMALL_BLOB_BYTES_MAX: u64 = crate::manifest::CONFIG_BYTES_MAX;
const DOCUMENT_TYPES: [&str; 4] = [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST];
const DIGEST_HEADER: &str = "docker-content-digest";

/// One manifest or index as the registry sent it; the bytes have the digest.
#[derive(Debug, Clone)]
pub struct FetchedDocument {
    /// Media type, digest and size.
    pub descriptor: Descriptor,
    /// The bytes to be stored under the digest.
    pub bytes: Bytes,
}

/// What a name means now.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The reference that was resolved.
    pub reference: Reference,
    /// The digest that the tag stands for (of the index, if there is one): the repo digest.
    pub digest: Digest,
    /// Every document from there to the platform's manifest, which is the last; never empty.
    pub documents: Vec<FetchedDocument>,
    /// The last document, parsed: configuration and layers.
    pub manifest: ImageManifest,
    /// The endpoint that said what the name means.
    pub endpoint: String,
}

/// One answer to a request for a document.
struct Answer {
    document: FetchedDocument,
    parsed: Document,
    endpoint: String,
}

impl Registry {
    /// Finds out what `reference` means now for `platform`. A digest in the reference decides over its tag.
    ///
    /// Every document is compared with its digest; with a tag, the first is pinned by what was received, and all that
    /// follows is asked for by digest.
    pub async fn resolve(
        &self,
        reference: &Reference,
        auth: Option<&Auth>,
        platform: &Platform,
    ) -> Result<Resolved, RegistryError> {
        let first = match reference.digest() {
            Some(digest) => self.by_digest(reference, digest, None, auth).await?,
            None => self.by_tag(reference, auth).await?,
        };
        let digest = first.document.descriptor.digest().clone();
        let endpoint = first.endpoint;
        let mut documents = vec![first.document];
        let mut parsed = first.parsed;
        loop {
            let index = match parsed {
                Document::Manifest(manifest) => {
                    let reference = reference.clone();
                    return Ok(Resolved { reference, digest, documents, manifest: *manifest, endpoint });
                }
                Document::Index(index) => index,
            };
            let wrong = |source| RegistryError::Document { reference: reference.to_string(), source: Box::new(source) };
            let chosen = choose(&index, platform).map_err(wrong)?;
            if documents.len() >= INDEX_DEPTH_MAX && is_index(chosen.media_type()) {
                return Err(wrong(DocumentError::TooDeep));
            }
            let next = self.by_digest(reference, chosen.digest(), Some(chosen), auth).await?;
            documents.push(next.document);
            parsed = next.parsed;
        }
    }

    /// A blob small enough for memory (at most 8 MiB: an image's configuration), compared with its digest.
    pub async fn small_blob(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        auth: Option<&Auth>,
    ) -> Result<Bytes, RegistryError> {
        let what = format!("fetch blob {} of {}", descriptor.digest(), reference.name());
        if descriptor.size() > SMALL_BLOB_BYTES_MAX {
            let digest = descriptor.digest().to_string();
            let source = DocumentError::TooLarge { digest, bytes: descriptor.size(), max: SMALL_BLOB_BYTES_MAX };
            return Err(RegistryError::Document { reference: reference.to_string(), source: Box::new(source) });
        }
        let path = format!("blobs/{}", descriptor.digest());
        let call = Call { reference, auth, method: Method::GET, path: &path, accept: &[], from_byte: 0 };
        let endpoints = self.pulling(reference, &what).await?;
        let read = |endpoint, response| async move {
            let body = Guarded::new(response, self.pace()).whole(descriptor.size()).await?;
            let actual = u64::try_from(body.len()).unwrap_or(u64::MAX);
            if actual != descriptor.size() {
                return Err(Cause::Size { expected: descriptor.size(), actual });
            }
            verified(&body, descriptor.digest())?;
            tracing::debug!(digest = %descriptor.digest(), endpoint, "fetched blob");
            Ok(Bytes::from(body))
        };
        self.first_of(&endpoints, what, &call, read).await
    }

    async fn by_tag(&self, reference: &Reference, auth: Option<&Auth>) -> Result<Answer, RegistryError> {
        let tag = reference.tag().unwrap_or("latest");
        let what = format!("resolve {reference}");
        let path = format!("manifests/{tag}");
        let all = self.endpoints(reference).await?;
        let resolving: Vec<Endpoint> = all.into_iter().filter(|endpoint| endpoint.capabilities.resolve).collect();
        if resolving.is_empty() {
            let registry = reference.registry().to_owned();
            return Err(RegistryError::NoEndpoint { what, registry, capability: "resolve" });
        }
        // An endpoint that may not serve content only says which content is meant.
        if resolving.iter().all(|endpoint| !endpoint.capabilities.pull) {
            let call =
                Call { reference, auth, method: Method::HEAD, path: &path, accept: &DOCUMENT_TYPES, from_byte: 0 };
            let said = |_, response: reqwest::Response| async move { digest_header(response.headers()) };
            let digest = self.first_of(&resolving, what, &call, said).await?;
            return self.by_digest(reference, &digest, None, auth).await;
        }
        let call = Call { reference, auth, method: Method::GET, path: &path, accept: &DOCUMENT_TYPES, from_byte: 0 };
        let serving: Vec<Endpoint> = resolving.into_iter().filter(|endpoint| endpoint.capabilities.pull).collect();
        let read = |endpoint, response: reqwest::Response| async move {
            let claimed = response.headers().get(DIGEST_HEADER).is_some();
            let expected = if claimed { Some(digest_header(response.headers())?) } else { None };
            self.read_document(endpoint, response, expected.as_ref(), None).await
        };
        self.first_of(&serving, what, &call, read).await
    }

    async fn by_digest(
        &self,
        reference: &Reference,
        digest: &Digest,
        descriptor: Option<&Descriptor>,
        auth: Option<&Auth>,
    ) -> Result<Answer, RegistryError> {
        let what = format!("fetch manifest {digest} of {}", reference.name());
        let path = format!("manifests/{digest}");
        let call = Call { reference, auth, method: Method::GET, path: &path, accept: &DOCUMENT_TYPES, from_byte: 0 };
        let endpoints = self.pulling(reference, &what).await?;
        let read = |endpoint, response| self.read_document(endpoint, response, Some(digest), descriptor);
        self.first_of(&endpoints, what, &call, read).await
    }

    async fn read_document(
        &self,
        endpoint: String,
        response: reqwest::Response,
        digest: Option<&Digest>,
        descriptor: Option<&Descriptor>,
    ) -> Result<Answer, Cause> {
        let claimed = content_type(response.headers())?;
        let body = Guarded::new(response, self.pace()).whole(DOCUMENT_BYTES_MAX).await?;
        let size = u64::try_from(body.len()).unwrap_or(u64::MAX);
        if let Some(expected) = descriptor.map(Descriptor::size).filter(|expected| *expected != size) {
            return Err(Cause::Size { expected, actual: size });
        }
        let digest = match digest {
            Some(digest) => {
                verified(&body, digest)?;
                digest.clone()
            }
            None => sha256_of(&body),
        };
        let promised = descriptor.map(|descriptor| descriptor.media_type().to_string());
        let parsed = parse_document(&body, promised.as_deref().or(claimed.as_deref())).map_err(Cause::Document)?;
        if let (Some(promised), Some(claimed)) = (&promised, &claimed)
            && promised != claimed
        {
            let (claimed, actual) = (words(claimed), promised.clone());
            return Err(Cause::Document(DocumentError::MediaType { claimed, by: "the registry", actual }));
        }
        let media_type = match &parsed {
            Document::Index(index) => index.media_type().clone(),
            Document::Manifest(manifest) => manifest.media_type().clone(),
        };
        let default = if matches!(parsed, Document::Index(_)) { OCI_INDEX } else { OCI_MANIFEST };
        let media_type = media_type.or(claimed.as_deref().map(MediaType::from)).unwrap_or_else(|| default.into());
        let descriptor = Descriptor::new(media_type, size, digest);
        let document = FetchedDocument { descriptor, bytes: Bytes::from(body) };
        Ok(Answer { document, parsed, endpoint })
    }
}

fn is_index(media_type: &MediaType) -> bool {
    matches!(media_type.to_string().as_str(), OCI_INDEX | DOCKER_LIST)
}

/// The media type by the transport, without parameters; `None` where the registry says nothing that means something
/// (file servers that play registry send text/plain or octet-stream).
fn content_type(headers: &HeaderMap) -> Result<Option<String>, Cause> {
    let Some(value) = headers.get(CONTENT_TYPE) else { return Ok(None) };
    let wrong = || Cause::Header { name: "Content-Type", value: words(&String::from_utf8_lossy(value.as_bytes())) };
    let text = value.to_str().map_err(|_| wrong())?;
    let media_type = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    Ok(Some(media_type).filter(|found| !matches!(found.as_str(), "" | "application/octet-stream" | "text/plain")))
}

fn digest_header(headers: &HeaderMap) -> Result<Digest, Cause> {
    let value = headers.get(DIGEST_HEADER).map(|value| String::from_utf8_lossy(value.as_bytes())).unwrap_or_default();
    value.parse().map_err(|_| Cause::Header { name: "Docker-Content-Digest", value: words(&value) })
}

fn sha256_of(bytes: &[u8]) -> Digest {
    let text = format!("sha256:{}", hex(&Sha256::digest(bytes)));
    text.parse().expect("64 lower-case hex digits are a digest")
}

fn verified(bytes: &[u8], digest: &Digest) -> Result<(), Cause> {
    let actual = match digest.algorithm() {
        DigestAlgorithm::Sha256 => format!("sha256:{}", hex(&Sha256::digest(bytes))),
        DigestAlgorithm::Sha512 => format!("sha512:{}", hex(&Sha512::digest(bytes))),
        _ => return Err(Cause::Document(DocumentError::Algorithm { digest: words(digest.as_ref()) })),
    };
    if actual == digest.as_ref() { Ok(()) } else { Err(Cause::Digest { expected: digest.to_string(), actual }) }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a String can't fail");
        text
    })
}
