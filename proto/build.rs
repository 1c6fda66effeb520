//! Generates messages and services from `marchproxy/v1/*.proto`.

use std::path::PathBuf;

use prost::Message;

const FILES: [&str; 6] = [
    "marchproxy/v1/document.proto",
    "marchproxy/v1/config.proto",
    "marchproxy/v1/node.proto",
    "marchproxy/v1/operate.proto",
    "marchproxy/v1/enrol.proto",
    "marchproxy/v1/tables.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=marchproxy");
    let descriptors = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?).join("marchproxy.bin");
    std::fs::write(out, descriptors.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
