//! Generates the CRI v1 messages and stubs from `proto/api.proto`, without protoc.

use std::error::Error;
use std::path::Path;

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto/api.proto");
    let descriptors = protox::compile(["api.proto"], ["proto"])?;
    let out = std::env::var("OUT_DIR")?;
    std::fs::write(Path::new(&out).join("api.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        // Written by hand in lib.rs: the derived form would print passwords.
        .skip_debug([".runtime.v1.AuthConfig"])
        // The definition's comments are indented like code, which rustdoc would try as examples.
        .disable_comments(["."])
        .compile_fds(descriptors)?;
    Ok(())
}
