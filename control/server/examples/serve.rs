//! Runs one server on a directory and a port, for trying things: `serve DIR PORT`. The program proper is `caravel server`.

use caravel_server::ServerConfig;
use std::net::SocketAddr;
use std::path::PathBuf;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let dir = PathBuf::from(
        args.next()
            .unwrap_or_else(|| "/tmp/caravel-serve".to_owned()),
    );
    let port: u16 = args.next().unwrap_or_else(|| "16443".to_owned()).parse()?;
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let config = ServerConfig {
        data_dir: dir.join("data"),
        etc_dir: dir.join("etc"),
        listen: SocketAddr::from(([127, 0, 0, 1], port)),
        // Of the range for documentation: nothing else reaches this server.
        advertise: std::net::IpAddr::from([192, 0, 2, 1]),
        ..ServerConfig::default()
    };
    let stop = CancellationToken::new();
    let mut running = tokio::spawn(caravel_server::run(config, stop.clone()));
    tokio::select! {
        ended = &mut running => return ended?,
        signal = tokio::signal::ctrl_c() => signal?,
    }
    stop.cancel();
    running.await?
}
