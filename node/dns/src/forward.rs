//! Questions about the rest of the world go to the machine's own resolvers, as they came.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::Message;
use hickory_proto::serialize::binary::BinDecodable;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// How long one resolver has for its answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Resolvers tried for one question (the same number as glibc).
const MOST: usize = 3;

/// The resolvers that a `resolv.conf` names, without those in `own` (asking oneself never ends).
pub fn upstreams_from(resolv_conf: &str, own: &[IpAddr]) -> Vec<SocketAddr> {
    resolv_conf
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .filter_map(|rest| rest.trim().parse::<IpAddr>().ok())
        .filter(|ip| !own.contains(ip))
        .take(MOST)
        .map(|ip| SocketAddr::new(ip, 53))
        .collect()
}

/// Passes `question` (a whole DNS message) to the resolvers in turn and returns the first answer.
///
/// # Errors
/// The last resolver's failure, or `NotFound` where there is none to ask.
pub(crate) async fn forward(
    question: &[u8],
    upstreams: &[SocketAddr],
    stream: bool,
) -> io::Result<Message> {
    let mut last = io::Error::new(
        io::ErrorKind::NotFound,
        "no upstream resolver is configured",
    );
    for upstream in upstreams.iter().take(MOST) {
        let asked = async {
            match stream {
                true => over_tcp(question, *upstream).await,
                false => over_udp(question, *upstream).await,
            }
        };
        match timeout(PATIENCE, asked).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => last = error,
            Err(_) => {
                last = io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("{upstream} did not answer"),
                )
            }
        }
    }
    Err(last)
}

async fn over_udp(question: &[u8], upstream: SocketAddr) -> io::Result<Message> {
    let socket = UdpSocket::bind(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0)).await?;
    socket.connect(upstream).await?;
    socket.send(question).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // Anything that does not carry the question's id is not its answer.
        if buffer.get(..2) == question.get(..2) {
            return Message::from_bytes(&buffer[..length]).map_err(io::Error::other);
        }
    }
}

async fn over_tcp(question: &[u8], upstream: SocketAddr) -> io::Result<Message> {
    let mut stream = TcpStream::connect(upstream).await?;
    let length = u16::try_from(question.len()).map_err(io::Error::other)?;
    stream.write_u16(length).await?;
    stream.write_all(question).await?;
    let length = stream.read_u16().await?;
    let mut buffer = vec![0; usize::from(length)];
    stream.read_exact(&mut buffer).await?;
    Message::from_bytes(&buffer).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_resolv_conf() {
        let text = "# x\nnameserver 10.0.0.2\nsearch a.b\nnameserver 10.43.0.10\n nameserver ::1\noptions ndots:5\nnameserver nonsense\n";
        let own = ["10.43.0.10".parse().unwrap()];
        let found: Vec<String> = upstreams_from(text, &own)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(found, ["10.0.0.2:53", "[::1]:53"]);
    }
}
