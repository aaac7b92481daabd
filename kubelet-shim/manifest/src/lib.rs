//! Manifests: YAML or JSON text to a validated pod.
//!
//! *In*: the text of a manifest and the name it goes by in messages. *Out*: [`Pod`]s with every default filled in as the
//! API server would, or all that is wrong, each with file, line, column, field and a way out ([`ManifestErrors`]).
//! *Not here*: files, clocks, volumes on disk, and what to do with a pod.
//!
//! The text is hostile: it is at most [`MANIFEST_BYTES_MAX`] long, aliases and nesting are bounded, a key that stands
//! twice is refused, and so is every field that this host would not honour: a pod that starts without its affinity or
//! its secret mount is worse than one that does not start.

mod document;
mod error;
mod pod;
mod quantity;
mod read;
mod tree;
mod words;

pub use document::{Document, MANIFEST_BYTES_MAX, Named, PODS_MAX, parse};
pub use error::{ManifestErrors, Mistake};
pub use pod::{
    Capabilities, Container, DnsConfig, DnsPolicy, Environment, EnvironmentSource, FieldPath, Handler, HostAlias,
    HostPathKind, HttpGet, Lifecycle, Medium, Metadata, Mount, Origin, Pod, PodKey, Port, Probe, ProbeHandler,
    Protocol, PullPolicy, Resources, RestartPolicy, RunsAs, Scheme, SeccompProfile, SecurityContext, Volume,
    VolumeSource,
};
