//! Devices by name, as the Container Device Interface has them: files of the host say what a device is made of, a container
//! names the devices it wants. <https://github.com/cncf-tags/container-device-interface/blob/main/SPEC.md>
//!
//! The files are read anew for each container that asks: there are few, they change when a driver is installed, and nothing
//! is then ever out of date.

use std::{
    collections::{BTreeMap, HashSet},
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use oci_spec::runtime::Spec;
use runtime_lifecycle::ContainerConfig;
use runtime_sys::fs::Open;

use crate::EngineError;

mod apply;
mod file;
mod name;

use file::{Edits, SpecFile};
use name::QualifiedName;

/// What an annotation's key begins with that asks for devices, as device plug-ins for older kubelets send them.
const ANNOTATION_PREFIX: &str = "cdi.k8s.io/";

/// Largest file, in bytes; one for 8 GPUs in 7 parts each has about 100 kB.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Most files in one directory; a vendor has one or two.
const FILES_MAX: usize = 1000;

/// Most devices of one container.
const DEVICES_MAX: usize = 1000;

/// Most names that an error lists: a status has little room.
const NAMES_TOLD_MAX: usize = 40;

/// What a container's devices are made of, in the order in which it is applied.
#[derive(Debug, Default)]
pub(crate) struct Devices(Vec<Named>);

/// One piece of it.
#[derive(Debug)]
struct Named {
    /// The device, or the kind of devices, for messages.
    name: String,
    edits: Edits,
}

/// All that the files say.
#[derive(Debug, Default)]
struct Known {
    /// By qualified name.
    devices: BTreeMap<String, Entry>,
    /// Files that can't be used, and why.
    broken: Vec<String>,
}

#[derive(Debug)]
struct Entry {
    edits: Edits,
    /// What all devices of the file share; its number among the files.
    file: usize,
    shared: Edits,
    path: PathBuf,
    /// The rank of its directory.
    rank: usize,
    /// Another file of the same directory that has the device, too.
    conflict: Option<PathBuf>,
}

impl Devices {
    /// Finds what `config` asks for in the files of `directories`; a later directory's device hides an earlier one's.
    ///
    /// # Errors
    /// A name is no device's, or a device needs what isn't supported. The message lists what there is.
    pub(crate) fn find(config: &ContainerConfig, directories: &[PathBuf]) -> Result<Self, EngineError> {
        let names = asked(config)?;
        if names.is_empty() {
            return Ok(Self::default());
        }
        let mut known = Known::read(directories);
        let mut pieces = Vec::new();
        let mut shared = HashSet::new();
        for name in names {
            let Some(entry) = known.devices.remove(&name) else { return Err(known.unknown(&name)) };
            if let Some(other) = &entry.conflict {
                let files = format!("{} and {} both have it", entry.path.display(), other.display());
                return Err(wrong(&name, files));
            }
            // Once, however many of the file's devices are asked for.
            if shared.insert(entry.file) {
                pieces.push(Named { name: format!("all of {}", entry.path.display()), edits: entry.shared });
            }
            pieces.push(Named { name, edits: entry.edits });
        }
        for piece in &pieces {
            piece.edits.check().map_err(|why| wrong(&piece.name, why))?;
        }
        Ok(Self(pieces))
    }

    /// Adds them to a specification.
    ///
    /// # Errors
    /// A device node isn't there, or isn't what the file says.
    pub(crate) fn apply(&self, spec: &mut Spec) -> Result<(), EngineError> {
        self.0.iter().try_for_each(|piece| apply::edits(&piece.edits, spec).map_err(|why| wrong(&piece.name, why)))
    }
}

fn wrong(name: &str, why: impl Into<String>) -> EngineError {
    EngineError::invalid(format!("CDI device {name:?}"), why)
}

/// The qualified names that a container asks for: by field, then by annotation, each once.
fn asked(config: &ContainerConfig) -> Result<Vec<String>, EngineError> {
    let annotated = config.annotations.iter().filter(|(key, _)| key.starts_with(ANNOTATION_PREFIX));
    let annotated = annotated.flat_map(|(_, value)| value.split(',')).map(str::trim);
    let mut names: Vec<String> = Vec::new();
    for name in config.cdi_devices.iter().map(String::as_str).chain(annotated) {
        let parsed = QualifiedName::parse(name).map_err(|why| wrong(name, why))?.to_string();
        if !names.contains(&parsed) {
            names.push(parsed);
        }
        if names.len() > DEVICES_MAX {
            return Err(EngineError::invalid("CDI devices", format!("more than {DEVICES_MAX}")));
        }
    }
    Ok(names)
}

impl Known {
    fn read(directories: &[PathBuf]) -> Self {
        let mut known = Self::default();
        let mut number = 0;
        for (rank, directory) in directories.iter().enumerate() {
            for path in files(directory) {
                match spec_file(&path) {
                    Ok(file) => known.add(file, &path, rank, number),
                    Err(why) => known.broken.push(format!("{}: {why}", path.display())),
                }
                number += 1;
            }
        }
        known
    }

    fn add(&mut self, spec: SpecFile, path: &Path, rank: usize, file: usize) {
        for device in spec.devices {
            let name = format!("{}={}", spec.kind, device.name);
            let entry = Entry {
                edits: device.container_edits,
                file,
                shared: spec.container_edits.clone(),
                path: path.to_owned(),
                rank,
                conflict: None,
            };
            match self.devices.get_mut(&name) {
                Some(there) if there.rank == rank => there.conflict = Some(path.to_owned()),
                _ => drop(self.devices.insert(name, entry)),
            }
        }
    }

    fn unknown(&self, name: &str) -> EngineError {
        let told: Vec<&str> = self.devices.keys().take(NAMES_TOLD_MAX).map(String::as_str).collect();
        let mut why = match told.as_slice() {
            [] => "is not known: there is no device of any kind".to_owned(),
            told => format!("is not known; known are {}", told.join(", ")),
        };
        if self.devices.len() > NAMES_TOLD_MAX {
            why += &format!(" and {} more", self.devices.len() - NAMES_TOLD_MAX);
        }
        for broken in self.broken.iter().take(3) {
            why += &format!("; {broken}");
        }
        wrong(name, why)
    }
}

/// The `.json` and `.yaml` files of a directory, sorted; none where there is no directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let is_spec = |path: &PathBuf| {
        let extension = path.extension().and_then(std::ffi::OsStr::to_str);
        extension.is_some_and(|extension| ["json", "yaml", "yml"].contains(&extension))
    };
    let mut files: Vec<PathBuf> = entries.take(FILES_MAX).flatten().map(|entry| entry.path()).filter(is_spec).collect();
    files.sort();
    files
}

fn spec_file(path: &Path) -> Result<SpecFile, String> {
    let text = |error: io::Error| error.to_string();
    let opened = runtime_sys::fs::open(path, Open::READ | Open::NON_BLOCK, 0);
    let file = File::from(opened.map_err(|error| error.to_string())?);
    let metadata = file.metadata().map_err(text)?;
    if !metadata.is_file() || metadata.len() > FILE_BYTES_MAX {
        return Err(format!("is not a file of at most {FILE_BYTES_MAX} bytes"));
    }
    // Whoever may write it may mount anything of the host.
    if metadata.uid() != 0 || metadata.mode() & 0o022 != 0 {
        return Err("somebody else than root may write it".to_owned());
    }
    let mut content = String::new();
    file.take(FILE_BYTES_MAX).read_to_string(&mut content).map_err(text)?;
    let is_json = path.extension().is_some_and(|extension| extension == "json");
    SpecFile::parse(&content, if is_json { file::Form::Json } else { file::Form::Yaml })
}

#[cfg(test)]
mod tests;
