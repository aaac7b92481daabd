//! What an image may cost. Every figure has a reason; a hostile image fails at one of them with a sentence that names it.

/// Most entries in one layer. The fullest real ones (whole distributions, conda) have some 500,000; each costs an inode.
pub const LAYER_ENTRIES_MAX: u64 = 2 * 1024 * 1024;

/// Most bytes that one layer unpacks to. Model images come near 40 GiB.
pub const LAYER_BYTES_MAX: u64 = 64 * 1024 * 1024 * 1024;

/// Most bytes that all layers of an image unpack to.
pub const IMAGE_BYTES_MAX: u64 = 192 * 1024 * 1024 * 1024;
const _: () = assert!(IMAGE_BYTES_MAX >= LAYER_BYTES_MAX);

/// Most layers. Docker builds at most 127, overlayfs mounts at most 500.
pub const LAYERS_MAX: usize = 500;

/// Longest manifest or index, in bytes; registries refuse larger ones.
pub const MANIFEST_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Longest image configuration, in bytes.
pub const CONFIG_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Up to here a layer may be as compressible as it likes (files of zeros are legal) …
pub const RATIO_FREE_BYTES: u64 = 512 * 1024 * 1024;

/// … beyond it, each compressed byte may become so many. Real layers reach 20; a gzip bomb has 1000.
pub const RATIO_MAX: u64 = 200;

/// Window of a zstd frame as a power of two: 64 MiB, what `zstd --ultra` needs up to level 21. With three layers at once
/// the decoders stay below 200 MiB in the worst case.
pub const ZSTD_WINDOW_LOG_MAX: u32 = 26;

/// Longest single name, in bytes: the kernel's NAME_MAX.
pub const COMPONENT_BYTES_MAX: usize = 255;

/// Longest path inside a layer, in bytes: the kernel's PATH_MAX with its final NUL.
pub const PATH_BYTES_MAX: usize = 4095;

/// Deepest path inside a layer. Nothing real comes near; every directory on the way costs a lookup per entry.
pub const PATH_DEPTH_MAX: usize = 1024;

/// Most symbolic links followed on the way to one entry: the kernel's own count.
pub const LINKS_FOLLOWED_MAX: usize = 40;

/// Most lookups that all walks through links and to missing directories of one layer may cost: some seconds.
pub const WALK_STEPS_MAX: u64 = 1024 * 1024;

/// Most lookups and links that joining an image's layers may cost: a minute. Real images with directories that a layer
/// implies need thousands, a whole distribution that is linked anew half a million.
pub const CHAIN_STEPS_MAX: u64 = 8 * 1024 * 1024;

/// What the directories of one layer may take in memory by their names, until their times are set at the end: room for
/// half a million of usual length.
pub const DIRECTORY_NAME_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Longest extended (PAX) or long-name header, in bytes, as in Go's archive/tar: room for the largest attributes.
pub const EXTENDED_HEADER_BYTES_MAX: u64 = 1024 * 1024;

/// Largest file with holes, holes included: as much as a whole layer. Its holes cost nothing here, and whoever copies it
/// elsewhere must know what he copies.
pub const SPARSE_BYTES_MAX: u64 = LAYER_BYTES_MAX;

/// Most pieces of data of a file with holes: an image of a disk has some thousand.
pub const SPARSE_FRAGMENTS_MAX: usize = 64 * 1024;

/// Longest extended attribute: the kernel's XATTR_SIZE_MAX.
pub const XATTR_VALUE_BYTES_MAX: usize = 64 * 1024;

/// Most extended attributes of one entry.
pub const XATTRS_MAX: usize = 128;

/// Most bytes of an archive that is imported, all its images and platforms together.
pub const IMPORT_BYTES_MAX: u64 = 256 * 1024 * 1024 * 1024;

/// Most entries of an archive that is imported: blobs, not files of a root.
pub const IMPORT_ENTRIES_MAX: u64 = 100_000;
