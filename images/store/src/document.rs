//! Manifests and configurations: hostile JSON becomes what we go by.

use std::borrow::Cow;

use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest};

use crate::compression::Compression;
use crate::digest::Digest;
use crate::error::DocumentError;
use crate::image::ImageLayer;
use crate::limits::{CONFIG_BYTES_MAX, LAYERS_MAX, MANIFEST_BYTES_MAX};

/// What we take from a manifest.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Manifest {
    pub(crate) media_type: String,
    pub(crate) config: Digest,
    pub(crate) config_bytes: u64,
    /// Digest, size, media type; the lowest first.
    pub(crate) layers: Vec<(Digest, u64, String)>,
}

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// How much of a hostile word is shown.
const SHOWN_CHARACTERS_MAX: usize = 100;

fn bounded(bytes: &[u8], max: u64) -> Result<(), DocumentError> {
    let found = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    if found > max { Err(DocumentError::TooLong { found, max }) } else { Ok(()) }
}

pub(crate) fn digest_of(descriptor: &Descriptor) -> Result<Digest, DocumentError> {
    Ok(descriptor.digest().to_string().parse()?)
}

/// Reads a manifest (OCI or Docker v2).
pub(crate) fn parse_manifest(bytes: &[u8]) -> Result<Manifest, DocumentError> {
    /// What must not stand in a manifest: a document that is manifest and index at once is read differently by different
    /// readers (GHSA-5j5w-g665-5m35).
    #[derive(serde::Deserialize)]
    struct Ambiguous {
        manifests: Option<serde::de::IgnoredAny>,
        #[serde(rename = "fsLayers")]
        fs_layers: Option<serde::de::IgnoredAny>,
    }
    bounded(bytes, MANIFEST_BYTES_MAX)?;
    let ambiguous: Ambiguous = serde_json::from_slice(bytes)?;
    if ambiguous.manifests.is_some() || ambiguous.fs_layers.is_some() {
        return Err(DocumentError::Content("it is a manifest and an index at once"));
    }
    let manifest: ImageManifest = serde_json::from_slice(bytes)?;
    let media_type = manifest.media_type().as_ref().map_or(Cow::Borrowed(OCI_MANIFEST), |kind| kind.to_string().into());
    if media_type != OCI_MANIFEST && media_type != DOCKER_MANIFEST {
        return Err(DocumentError::Content("its media type is no manifest's"));
    }
    if manifest.layers().len() > LAYERS_MAX {
        return Err(DocumentError::Content("it has more layers than overlayfs mounts (500)"));
    }
    let config = manifest.config();
    if config.size() > CONFIG_BYTES_MAX {
        return Err(DocumentError::TooLong { found: config.size(), max: CONFIG_BYTES_MAX });
    }
    let layer = |layer: &Descriptor| Ok((digest_of(layer)?, layer.size(), layer.media_type().to_string()));
    Ok(Manifest {
        media_type: media_type.into_owned(),
        config: digest_of(config)?,
        config_bytes: config.size(),
        layers: manifest.layers().iter().map(layer).collect::<Result<_, DocumentError>>()?,
    })
}

/// Reads a configuration and joins it with its manifest's layers.
pub(crate) fn parse_config(
    bytes: &[u8],
    manifest: &Manifest,
) -> Result<(ImageConfiguration, Vec<ImageLayer>), DocumentError> {
    bounded(bytes, CONFIG_BYTES_MAX)?;
    let config: ImageConfiguration = serde_json::from_slice(bytes)?;
    let diff_ids = config.rootfs().diff_ids();
    if diff_ids.len() != manifest.layers.len() {
        return Err(DocumentError::LayerCount { layers: manifest.layers.len(), diff_ids: diff_ids.len() });
    }
    let joined = manifest.layers.iter().zip(diff_ids).map(|((digest, size_bytes, media_type), diff_id)| {
        if Compression::of_media_type(media_type).is_none() {
            let media_type = media_type.chars().take(SHOWN_CHARACTERS_MAX).collect();
            return Err(DocumentError::MediaType { digest: *digest, media_type });
        }
        Ok(ImageLayer {
            digest: *digest,
            diff_id: diff_id.parse::<Digest>()?,
            media_type: media_type.clone(),
            size_bytes: *size_bytes,
        })
    });
    let layers = joined.collect::<Result<_, _>>()?;
    Ok((config, layers))
}

/// Reads an index.
pub(crate) fn parse_index(bytes: &[u8]) -> Result<ImageIndex, DocumentError> {
    bounded(bytes, MANIFEST_BYTES_MAX)?;
    Ok(serde_json::from_slice(bytes)?)
}
