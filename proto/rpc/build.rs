//! Generates the Rust side of `proto/` without `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "proto/caravel/cluster/v1/cluster.proto",
        "proto/caravel/cluster/v1/join.proto",
        "proto/caravel/peer/v1/peer.proto",
    ];
    for file in files {
        println!("cargo::rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure()
        .build_transport(false)
        .compile_fds(descriptors)?;
    Ok(())
}
