//! Images in one file: what `import` reads and `export` writes.

mod export;
mod import;

pub use import::Imported;
