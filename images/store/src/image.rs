//! An image as the rest of the system sees it.

use oci_spec::image::ImageConfiguration;

use crate::digest::Digest;

/// An image whose manifest, configuration and layers are all in the store.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// `sha256:…` of the configuration: equal for equal contents, whatever the name or the compression.
    pub id: String,
    /// The manifest.
    pub manifest: Digest,
    /// Names with a tag: `docker.io/library/nginx:latest`.
    pub repo_tags: Vec<String>,
    /// Names with the digest that the registry gave for them: `docker.io/library/nginx@sha256:…`.
    pub repo_digests: Vec<String>,
    /// The manifest, the configuration and the compressed layers, in bytes: what a pull transfers.
    pub size_bytes: u64,
    /// The user in the image's configuration, exactly as it stands there (`1000`, `web`, `1000:1000`); absent when empty.
    pub user: Option<String>,
    /// Never removed for room.
    pub pinned: bool,
    /// The configuration.
    pub config: ImageConfiguration,
    /// The layers, the lowest first.
    pub layers: Vec<ImageLayer>,
}

/// One layer of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageLayer {
    /// The blob.
    pub digest: Digest,
    /// The tar archive in it.
    pub diff_id: Digest,
    /// The blob's media type.
    pub media_type: String,
    /// The blob's size.
    pub size_bytes: u64,
}
