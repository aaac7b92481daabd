//! Archives by hand for tests: every field of a header as wrong as a test wants it.

use std::io::Write as _;
use std::path::Path;

/// One header block in the making.
#[derive(Clone)]
pub(crate) struct Block(pub(crate) [u8; 512]);

impl Block {
    pub(crate) fn new(kind: u8, name: &[u8], size: u64) -> Self {
        let mut block = Self([0; 512]);
        block.put(0, &name[..name.len().min(100)]);
        block.put(100, b"0000755\0");
        block.put(108, b"0000000\0");
        block.put(116, b"0000000\0");
        block.put(124, format!("{size:011o}\0").as_bytes());
        block.put(136, b"00000000001\0");
        block.0[156] = kind;
        block.put(257, b"ustar\x0000");
        block
    }

    pub(crate) fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    pub(crate) fn with(mut self, at: usize, bytes: &[u8]) -> Self {
        self.put(at, bytes);
        self
    }

    fn sealed(mut self) -> [u8; 512] {
        self.put(148, b"        ");
        let sum: u32 = self.0.iter().map(|byte| u32::from(*byte)).sum();
        self.put(148, format!("{sum:06o}\0 ").as_bytes());
        self.0
    }
}

/// An archive in the making.
#[derive(Default, Clone)]
pub(crate) struct Tar(pub(crate) Vec<u8>);

impl Tar {
    pub(crate) fn block(mut self, block: Block) -> Self {
        self.0.extend(block.sealed());
        self
    }

    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    /// Data, filled up to whole blocks.
    pub(crate) fn data(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn file(self, name: &str, data: &[u8]) -> Self {
        let size = u64::try_from(data.len()).unwrap();
        self.named(b'0', name.as_bytes(), size, b"").data(data)
    }

    pub(crate) fn dir(self, name: &str) -> Self {
        self.named(b'5', name.as_bytes(), 0, b"")
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.named(b'2', name.as_bytes(), 0, target.as_bytes())
    }

    pub(crate) fn hardlink(self, name: &str, target: &str) -> Self {
        self.named(b'1', name.as_bytes(), 0, target.as_bytes())
    }

    /// Any entry; long names by PAX records.
    pub(crate) fn named(self, kind: u8, name: &[u8], size: u64, target: &[u8]) -> Self {
        let mut records = Vec::new();
        if name.len() > 100 {
            records.extend(record(b"path", name));
        }
        if target.len() > 100 {
            records.extend(record(b"linkpath", target));
        }
        let archive = if records.is_empty() { self } else { self.pax(&records) };
        archive.block(Block::new(kind, name, size).with(157, &target[..target.len().min(100)]))
    }

    pub(crate) fn pax(self, records: &[u8]) -> Self {
        self.extended(b'x', records)
    }

    pub(crate) fn extended(self, kind: u8, body: &[u8]) -> Self {
        self.block(Block::new(kind, b"extended", u64::try_from(body.len()).unwrap())).data(body)
    }

    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.extend([0; 1024]);
        self.0
    }
}

/// One PAX record with its right length.
pub(crate) fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length += 1;
    }
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    ::zstd::encode_all(bytes, 1).unwrap()
}

/// Whether a kernel test can run; says in one line why not.
pub(crate) fn root_or_skip(test: &str) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    if !root {
        eprintln!("{test}: skipped, needs root");
    }
    root
}

/// The directories beside the store that nothing may touch.
pub(crate) fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
