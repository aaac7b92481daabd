//! `volumes`.

use std::collections::BTreeSet;

use crate::{
    pod::{HostPathKind, Medium, Volume, VolumeSource},
    quantity,
    tree::Value,
};

/// Most volumes of a pod; each may be a mount.
const VOLUMES_MAX: usize = 200;

const LATER: &str = "Podwright supports emptyDir and hostPath so far";
const CLUSTER: &str = "it needs a cluster; use emptyDir or hostPath";

/// Each volume with the line where it stands.
pub(super) fn volumes(value: Option<Value<'_>>) -> Vec<(Volume, u64)> {
    let Some(value) = value else { return Vec::new() };
    let items = value.list();
    if items.len() > VOLUMES_MAX {
        value.wrong(format!("holds {} volumes; a pod has at most {VOLUMES_MAX}", items.len()));
        return Vec::new();
    }
    let volumes: Vec<_> =
        items.iter().filter_map(|item| volume(item).map(|volume| (volume, item.place.line))).collect();
    let mut names = BTreeSet::new();
    for (volume, _) in &volumes {
        if !names.insert(&volume.name) {
            value.wrong(format!("two volumes have the name `{}`", volume.name));
        }
    }
    volumes
}

fn volume(value: &Value<'_>) -> Option<Volume> {
    let mut fields = value.fields()?;
    let name = fields.need("name").and_then(|value| value.label_name());
    let empty = fields.take("emptyDir");
    let host = fields.take("hostPath");
    let has_more = fields.has_more();
    fields.finish(&[
        ("configMap", LATER),
        ("secret", LATER),
        ("projected", LATER),
        ("downwardAPI", LATER),
        ("nfs", "mount it on the host and use hostPath"),
        ("image", LATER),
        ("ephemeral", CLUSTER),
        ("persistentVolumeClaim", CLUSTER),
        ("csi", CLUSTER),
        ("gitRepo", "it runs git hooks of the repository on the host; clone in an init container"),
    ]);
    let source = match (empty, host) {
        (Some(_), Some(_)) => {
            value.wrong("names more than one source");
            None
        }
        (Some(empty), None) => empty_dir(&empty),
        (None, Some(host)) => host_path(&host),
        (None, None) if has_more => None,
        (None, None) => {
            value.wrong("names no source that is supported; write `emptyDir: {}` or `hostPath: {path: /…}`");
            None
        }
    };
    Some(Volume { name: name?, source: source? })
}

fn empty_dir(value: &Value<'_>) -> Option<VolumeSource> {
    let mut fields = value.fields()?;
    let medium = fields.take("medium").and_then(|value| {
        if value.text().is_some_and(|text| text.starts_with("HugePages")) {
            value.wrong("huge pages are not supported; use `Memory`");
            return None;
        }
        value.word(&[("", Medium::Disk), ("Memory", Medium::Memory)])
    });
    let size_bytes_max = fields.take("sizeLimit").and_then(|value| bytes(&value));
    fields.finish(&[]);
    Some(VolumeSource::EmptyDir { medium: medium.unwrap_or(Medium::Disk), size_bytes_max })
}

pub(super) fn bytes(value: &Value<'_>) -> Option<u64> {
    let text = value.scalar()?;
    quantity::whole(&text)
        .map_err(|rule| value.wrong(format!("{:?} is not a quantity: {rule}", crate::words::shortened(&text))))
        .ok()
}

fn host_path(value: &Value<'_>) -> Option<VolumeSource> {
    let mut fields = value.fields()?;
    let path = fields.need("path").and_then(|value| value.absolute_path());
    let kind = fields.take("type").and_then(|value| {
        value.word(&[
            ("", HostPathKind::Unchecked),
            ("Directory", HostPathKind::Directory),
            ("DirectoryOrCreate", HostPathKind::DirectoryOrCreate),
            ("File", HostPathKind::File),
            ("FileOrCreate", HostPathKind::FileOrCreate),
            ("Socket", HostPathKind::Socket),
            ("CharDevice", HostPathKind::CharDevice),
            ("BlockDevice", HostPathKind::BlockDevice),
        ])
    });
    fields.finish(&[]);
    Some(VolumeSource::HostPath { path: path?, kind: kind.unwrap_or(HostPathKind::Unchecked) })
}
