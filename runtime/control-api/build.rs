//! Generates the messages and stubs from `proto/control.proto`, without a protoc program.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto/control.proto");
    let descriptors = protox::compile(["control.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .emit_rerun_if_changed(false)
        // Written by hand in lib.rs: the derived form would print passwords.
        .skip_debug([".podwright.control.v1.Credentials"])
        .compile_fds(descriptors)?;
    Ok(())
}
