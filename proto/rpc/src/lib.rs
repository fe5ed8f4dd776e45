//! The gRPC interface of a Caravel server, generated from `proto/`. Types and stubs only; no behaviour.

pub mod cluster {
    pub mod v1 {
        #![allow(clippy::all, clippy::pedantic)]
        tonic::include_proto!("caravel.cluster.v1");

        /// What this package is, as a `FileDescriptorSet`.
        pub const DESCRIPTION: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/cluster.bin"));
    }
}

pub mod peer {
    pub mod v1 {
        #![allow(clippy::all, clippy::pedantic)]
        tonic::include_proto!("caravel.peer.v1");
    }
}
