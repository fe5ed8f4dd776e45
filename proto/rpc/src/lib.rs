//! The gRPC interface of a Caravel server, generated from `proto/`. Types and stubs only; no behaviour.

pub mod cluster {
    pub mod v1 {
        #![allow(clippy::all, clippy::pedantic)]
        tonic::include_proto!("caravel.cluster.v1");
    }
}

pub mod peer {
    pub mod v1 {
        #![allow(clippy::all, clippy::pedantic)]
        tonic::include_proto!("caravel.peer.v1");
    }
}
