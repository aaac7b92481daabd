//! The OCI distribution protocol, client side: a name becomes verified manifests and streams of layer bytes.
//!
//! *In*: a [`Reference`], perhaps credentials ([`Auth`]), and the mirror settings of a `hosts.toml` directory
//! ([`RegistryConfig`]). *Out*: [`Resolved`] (every manifest on the way from the name to the platform's image, each
//! compared with its digest) and [`BlobStream`] (bytes that resume over broken connections and never exceed the size
//! that the descriptor promised). *Not here*: the store (a blob's digest is checked by whoever writes it, as the bytes
//! pass), unpacking, pushing, the choice of credentials, and CRI.
//!
//! Every answer of a registry is hostile. Credentials go to the registry that they are for and to the token service that
//! it names, never along a redirect to another host, never over plain HTTP to another machine, never to a mirror that
//! they don't name. Proxies are those that the caller hands over ([`Proxies`], read from `HTTPS_PROXY` and its kin). Names are
//! resolved without NSS modules, by `/etc/hosts` and the name servers of `/etc/resolv.conf` alone: where it names none, that
//! is an error and nobody is asked.

mod auth;
mod blob;
mod client;
mod document;
mod error;
mod guard;
mod hosts;
mod manifest;
mod net;
mod proxy;
mod reference;
mod resolver;
mod token;

pub use auth::{Auth, AuthFields, AuthFieldsError, Secret};
pub use blob::BlobStream;
pub use client::{Registry, RegistryConfig};
pub use document::{FetchedDocument, Resolved};
pub use error::{Attempt, Cause, Kind, RegistryError};
pub use hosts::{Capabilities, Endpoint, HOSTS_FILE_BYTES_MAX, HostsError, TlsFiles};
pub use manifest::{
    CONFIG_BYTES_MAX, DOCUMENT_BYTES_MAX, Document, DocumentError, INDEX_DEPTH_MAX, INDEX_ENTRIES_MAX, LAYER_BYTES_MAX,
    LAYERS_MAX, Platform, choose, parse_document,
};
pub use net::RedirectRefused;
pub use oci_spec::image::{Descriptor, Digest, ImageManifest};
pub use proxy::{Proxies, ProxyError};
pub use reference::{REFERENCE_BYTES_MAX, Reference, ReferenceError};

#[cfg(test)]
mod hostile;
