//! Generates the Rust side of `proto/` without `protoc`, and keeps its description for tools that ask for it.

use protox::prost::Message as _;
use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "proto/caravel/cluster/v1/cluster.proto",
        "proto/caravel/cluster/v1/join.proto",
        "proto/caravel/cluster/v1/objects.proto",
        "proto/caravel/peer/v1/peer.proto",
    ];
    for file in files {
        println!("cargo::rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["proto"])?;
    // What the peers say to each other is no business of tools.
    let mut told = descriptors.clone();
    told.file.retain(|file| file.package() != "caravel.peer.v1");
    let out = std::env::var("OUT_DIR")?;
    std::fs::write(Path::new(&out).join("cluster.bin"), told.encode_to_vec())?;
    tonic_prost_build::configure()
        .build_transport(false)
        .compile_fds(descriptors)?;
    Ok(())
}
