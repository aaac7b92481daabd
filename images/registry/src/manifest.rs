//! Manifests and indexes: which documents are taken for what, and which image of an index is ours. Pure; an importer of
//! archives judges by the same rules.

use oci_spec::image::{Descriptor, DigestAlgorithm, ImageIndex, ImageManifest};
use serde::Deserialize;
use serde::de::IgnoredAny;

/// Longest manifest or index that is read: what registries accept (4 MiB in distribution, 4·1048·1048 in containerd).
pub const DOCUMENT_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Most entries of one index. The largest seen (all platforms with attestations, cosign's history) have some hundreds.
pub const INDEX_ENTRIES_MAX: usize = 1000;
/// Deepest nesting of indexes, counting the first. Real ones have one; BuildKit's bake makes two.
pub const INDEX_DEPTH_MAX: usize = 3;
/// Most layers of an image: overlay takes 500 lower directories.
pub const LAYERS_MAX: usize = 500;
/// Longest image configuration, in bytes. It is held in memory; those of real images have some kB.
pub const CONFIG_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Longest layer, in bytes as sent. Beyond any real layer (those of machine learning have some ten GB), and far below
/// where sums of sizes could overflow.
pub const LAYER_BYTES_MAX: u64 = 256 * 1024 * 1024 * 1024;

pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_SCHEMA1: [&str; 2] = [
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
];
const CONFIGS: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];
const LAYERS: [&str; 6] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
];
const FOREIGN_LAYERS: [&str; 4] = [
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
];

/// A document that passed every check here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// Several images, one per platform.
    Index(Box<ImageIndex>),
    /// One image.
    Manifest(Box<ImageManifest>),
}

/// The platform that an image must be for; the operating system is always `linux`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    /// In Go's words: `amd64`, `arm64`, `arm`.
    pub architecture: String,
    /// `v7`, `v8`; `None` where the architecture has one only.
    pub variant: Option<String>,
}

impl Platform {
    /// This machine's.
    #[must_use]
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "aarch64" => ("arm64", Some("v8")),
            "arm" => ("arm", Some("v7")),
            "x86" => ("386", None),
            "powerpc64" if cfg!(target_endian = "little") => ("ppc64le", None),
            "loongarch64" => ("loong64", None),
            other => (other, None),
        };
        Self { architecture: architecture.to_owned(), variant: variant.map(ToOwned::to_owned) }
    }

    /// How well an entry fits: the higher the better, `None` not at all. An older variant runs on a newer machine.
    fn fits(&self, descriptor: &Descriptor) -> Option<u32> {
        let platform = descriptor.platform().as_ref()?;
        if platform.os().to_string() != "linux" || platform.architecture().to_string() != self.architecture {
            return None;
        }
        let wanted = rank(&self.architecture, self.variant.as_deref())?;
        let offered = rank(&self.architecture, platform.variant().as_deref())?;
        (offered <= wanted).then_some(offered)
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "linux/{}", self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(f, "/{variant}"))
    }
}

/// The number in a variant; what stands for none follows containerd's normalisation (arm is v7, arm64 v8, amd64 v1).
fn rank(architecture: &str, variant: Option<&str>) -> Option<u32> {
    match (architecture, variant.unwrap_or_default()) {
        ("arm", "") => Some(7),
        ("arm64", "") => Some(8),
        ("amd64", "") => Some(1),
        (_, "") => Some(0),
        (_, variant) => variant.strip_prefix('v').unwrap_or(variant).parse().ok(),
    }
}

/// Why a document, or what it leads to, can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// No JSON, a duplicate or a missing field, a digest or size that can't be.
    #[error("not a manifest or index: {0}")]
    Json(String),
    /// Has fields of both kinds, so that two readers could see two images.
    #[error("it has both {0} and {1}")]
    Ambiguous(&'static str, &'static str),
    /// Neither an index nor a manifest.
    #[error("it is neither an image index nor an image manifest")]
    Neither,
    /// Docker's schema 1, which has no verifiable content.
    #[error("Docker manifest schema 1 isn't supported; push the image again with a current client")]
    Schema1,
    /// The schema version is another.
    #[error("schemaVersion is {0}, not 2")]
    SchemaVersion(u32),
    /// The transport and the document disagree, or the type doesn't fit the fields.
    #[error("its media type is {claimed:?} by {by}, but the document is {actual:?}")]
    MediaType {
        /// Claimed type.
        claimed: String,
        /// Who claims it.
        by: &'static str,
        /// What it is.
        actual: String,
    },
    /// An index with too many entries, or a manifest with too many layers.
    #[error("it has {count} {what}, more than {max}")]
    TooMany {
        /// `entries` or `layers`.
        what: &'static str,
        /// How many.
        count: usize,
        /// The limit.
        max: usize,
    },
    /// Indexes in indexes.
    #[error("its indexes are nested more than {INDEX_DEPTH_MAX} deep")]
    TooDeep,
    /// The image isn't for this machine.
    #[error("it has no image for {wanted}; it has {offered}")]
    NoPlatform {
        /// This platform.
        wanted: String,
        /// What there is.
        offered: String,
    },
    /// The digest's algorithm.
    #[error("{digest}: digests of this algorithm aren't supported")]
    Algorithm {
        /// The digest, cut.
        digest: String,
    },
    /// The configuration has another type: the manifest is of something that isn't a container image.
    #[error("it is no container image: its configuration has the media type {0:?}")]
    NotAnImage(String),
    /// A layer of a type that isn't supported.
    #[error("layer {digest} has the unsupported media type {media_type:?}")]
    Layer {
        /// The layer.
        digest: String,
        /// Its type.
        media_type: String,
    },
    /// A layer that registries don't hold.
    #[error("layer {digest} is a foreign layer ({media_type:?}): fetching from the addresses in its urls is refused")]
    ForeignLayer {
        /// The layer.
        digest: String,
        /// Its type.
        media_type: String,
    },
    /// A size beyond the limit.
    #[error("{digest} is said to have {bytes} bytes, more than {max}")]
    TooLarge {
        /// The blob.
        digest: String,
        /// Its size.
        bytes: u64,
        /// The limit.
        max: u64,
    },
}

/// Only what tells the kinds apart. Serde refuses a field that comes twice, so no reader can see another document.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    schema_version: Option<u32>,
    media_type: Option<String>,
    manifests: Option<IgnoredAny>,
    layers: Option<IgnoredAny>,
    config: Option<IgnoredAny>,
    fs_layers: Option<IgnoredAny>,
}

/// Takes a document for what it is, after every check that needs nothing but its bytes. `claimed` is the media type by
/// the transport (Content-Type) or by the descriptor that led here; `None` if nobody says.
///
/// The caller has compared the bytes with their digest, and holds at most [`DOCUMENT_BYTES_MAX`].
pub fn parse_document(bytes: &[u8], claimed: Option<&str>) -> Result<Document, DocumentError> {
    let json = |error: serde_json::Error| DocumentError::Json(crate::error::words(&error.to_string()));
    let shape: Shape = serde_json::from_slice(bytes).map_err(json)?;
    let actual = kind_of(&shape, claimed)?;
    for (by, claim) in [("the registry", claimed), ("itself", shape.media_type.as_deref())] {
        if let Some(claim) = claim
            && claim != actual
        {
            let claimed = crate::error::words(claim);
            return Err(DocumentError::MediaType { claimed, by, actual: actual.to_owned() });
        }
    }
    match actual {
        OCI_INDEX | DOCKER_LIST => {
            let index: ImageIndex = serde_json::from_slice(bytes).map_err(json)?;
            let count = index.manifests().len();
            if count > INDEX_ENTRIES_MAX {
                return Err(DocumentError::TooMany { what: "entries", count, max: INDEX_ENTRIES_MAX });
            }
            Ok(Document::Index(Box::new(index)))
        }
        _ => {
            let manifest: ImageManifest = serde_json::from_slice(bytes).map_err(json)?;
            check_manifest(&manifest)?;
            Ok(Document::Manifest(Box::new(manifest)))
        }
    }
}

/// The media type that the document's fields allow. Of the OCI and the Docker type, the document's own word decides,
/// then the claim.
fn kind_of(shape: &Shape, claimed: Option<&str>) -> Result<&'static str, DocumentError> {
    let said = shape.media_type.as_deref().or(claimed).unwrap_or_default();
    if shape.fs_layers.is_some() || shape.schema_version == Some(1) || DOCKER_SCHEMA1.contains(&said) {
        return Err(DocumentError::Schema1);
    }
    let index = shape.manifests.is_some();
    for (field, present) in [("layers", shape.layers.is_some()), ("config", shape.config.is_some())] {
        if index && present {
            return Err(DocumentError::Ambiguous("manifests", field));
        }
    }
    if shape.schema_version != Some(2) {
        return Err(DocumentError::SchemaVersion(shape.schema_version.unwrap_or_default()));
    }
    match (index, shape.layers.is_some() && shape.config.is_some()) {
        (true, _) if said == DOCKER_LIST => Ok(DOCKER_LIST),
        (true, _) => Ok(OCI_INDEX),
        (false, true) if said == DOCKER_MANIFEST => Ok(DOCKER_MANIFEST),
        (false, true) => Ok(OCI_MANIFEST),
        (false, false) => Err(DocumentError::Neither),
    }
}

fn check_manifest(manifest: &ImageManifest) -> Result<(), DocumentError> {
    let config = manifest.config();
    check_blob(config, CONFIG_BYTES_MAX)?;
    let media_type = config.media_type().to_string();
    if !CONFIGS.contains(&media_type.as_str()) {
        return Err(DocumentError::NotAnImage(crate::error::words(&media_type)));
    }
    let count = manifest.layers().len();
    if count > LAYERS_MAX {
        return Err(DocumentError::TooMany { what: "layers", count, max: LAYERS_MAX });
    }
    for layer in manifest.layers() {
        check_blob(layer, LAYER_BYTES_MAX)?;
        let media_type = layer.media_type().to_string();
        let digest = layer.digest().to_string();
        if FOREIGN_LAYERS.contains(&media_type.as_str()) {
            return Err(DocumentError::ForeignLayer { digest, media_type });
        }
        if !LAYERS.contains(&media_type.as_str()) {
            return Err(DocumentError::Layer { digest, media_type: crate::error::words(&media_type) });
        }
    }
    Ok(())
}

fn check_blob(descriptor: &Descriptor, max: u64) -> Result<(), DocumentError> {
    if !matches!(descriptor.digest().algorithm(), DigestAlgorithm::Sha256 | DigestAlgorithm::Sha512) {
        return Err(DocumentError::Algorithm { digest: crate::error::words(descriptor.digest().as_ref()) });
    }
    if descriptor.size() > max {
        let digest = descriptor.digest().to_string();
        return Err(DocumentError::TooLarge { digest, bytes: descriptor.size(), max });
    }
    Ok(())
}

/// The entry of an index for this platform: the best variant that it runs, of equals the first. An index that names no
/// platform at all and has one entry means that one (old tools wrote such).
pub fn choose<'a>(index: &'a ImageIndex, platform: &Platform) -> Result<&'a Descriptor, DocumentError> {
    let is_document = |descriptor: &&Descriptor| {
        matches!(descriptor.media_type().to_string().as_str(), OCI_INDEX | OCI_MANIFEST | DOCKER_LIST | DOCKER_MANIFEST)
    };
    let mut best: Option<(u32, &Descriptor)> = None;
    for entry in index.manifests().iter().filter(is_document) {
        if let Some(rank) = platform.fits(entry)
            && best.is_none_or(|(highest, _)| rank > highest)
        {
            best = Some((rank, entry));
        }
    }
    let chosen = best.map(|(_, entry)| entry).or_else(|| match index.manifests().as_slice() {
        [only] if only.platform().is_none() && is_document(&only) => Some(only),
        _ => None,
    });
    let chosen = chosen.ok_or_else(|| no_platform(index, platform))?;
    check_blob(chosen, DOCUMENT_BYTES_MAX)?;
    Ok(chosen)
}

fn no_platform(index: &ImageIndex, platform: &Platform) -> DocumentError {
    let mut offered: Vec<String> = Vec::new();
    for entry in index.manifests().iter().filter_map(|entry| entry.platform().as_ref()) {
        let name = format!("{}/{}", entry.os(), entry.architecture());
        if !name.starts_with("unknown/") && !offered.contains(&name) {
            offered.push(name);
        }
    }
    let offered = if offered.is_empty() { "none".to_owned() } else { crate::error::words(&offered.join(", ")) };
    DocumentError::NoPlatform { wanted: platform.to_string(), offered }
}

#[cfg(test)]
mod tests;
